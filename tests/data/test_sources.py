import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hf_multitask.data.sources import FileSource, HubSource, read_file


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "sentence,label\nA film.,1\nNA,0\n"),
        ("t.tsv", "sentence\tlabel\nA film.\t1\nNA\t0\n"),
        ("t.json", json.dumps([{"sentence": "A film.", "label": "1"}, {"sentence": "NA", "label": "0"}])),
        ("t.jsonl", '{"sentence": "A film.", "label": "1"}\n{"sentence": "NA", "label": "0"}\n'),
    ],
)
def test_every_kind_of_text_file_gives_the_same_rows(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    rows = read_file(str(tmp_path / name))
    assert rows[:] == {"sentence": ["A film.", "NA"], "label": ["1", "0"]}


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    pd.DataFrame({"sentence": ["a", None], "label": [1.5, 2.5]}).to_parquet(tmp_path / "t.parquet")
    assert read_file(str(tmp_path / "t.parquet"))[:] == {"sentence": ["a", None], "label": [1.5, 2.5]}


def test_the_courses_layout_is_a_delimiter_and_an_index_without_a_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('\tid\tsentence\tlabel\n7\tx\t A "quoted, word .\t3\n')
    row = read_file(str(tmp_path / "t.csv"), "\t")[0]
    assert (row["id"], row["sentence"], row["label"]) == ("x", ' A "quoted, word .', "3")


@pytest.mark.parametrize("word", ["NA", "null", "None", "nan", "NULL", "N/A", "1.50"])
def test_no_word_is_taken_for_a_missing_value_or_a_number(tmp_path: Path, word: str) -> None:
    (tmp_path / "t.csv").write_text(f"sentence,label\n{word},1\n")
    assert read_file(str(tmp_path / "t.csv"))["sentence"][0] == word


def test_a_byte_order_mark_and_a_quoted_line_break_are_understood(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes('\ufeffsentence,label\n"two\nlines, ""quoted""",1\n'.encode())
    assert read_file(str(tmp_path / "t.csv"))[0] == {"sentence": 'two\nlines, "quoted"', "label": "1"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "is empty"),
        ("t.xls", b"x", "is of no kind that can be read; known: .csv"),
        ("t.csv", b"a,b\n1,2\n1,2,3\n", "cannot be read as csv: .*Expected 2 fields in line 3, saw 3"),
        ("t.csv", b"sentence\n\xff\xfe\n", "cannot be read as csv: .*utf-8"),
        ("t.csv", b'a,b\n"never closed,1\n', "cannot be read as csv: .*EOF inside string"),
        ("t.json", b"{not json", "cannot be read as json"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} {message}") as error:
        read_file(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not there"):
        read_file(str(tmp_path / "t.csv"))
    with pytest.raises(ValueError, match="is a folder, not a file"):
        read_file(str(tmp_path))


def test_unknown_keys_and_missing_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown key 'delimeter'; did you mean 'delimiter'"):
        FileSource.from_dict({"train": "t.csv", "delimeter": ","})
    with pytest.raises(ValueError, match="there is no test split; this source has: train"):
        FileSource(train="t.csv").split("test")
    with pytest.raises(ValueError, match="path is missing"):
        HubSource.from_dict({"text": "sentence"})


def test_a_hub_dataset_is_loaded_by_name(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    for split, part in DatasetDict({"train": rows, "dev": rows.select([1])}).items():
        part.to_parquet(tmp_path / "data" / f"{split}-00000.parquet")
    source = HubSource.from_dict({"path": str(tmp_path), "text": "text", "validation": "validation"})
    assert source.load("train")["text"][:] == ["a", "b"]
    with pytest.raises(ValueError, match="cannot be loaded"):
        HubSource(path="no/such-dataset").load("train")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["proj [2024]", "proj*", "what?", "a::b"])
def test_a_folder_whose_name_is_a_pattern_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, streaming: bool
) -> None:
    # The last ones are found by the patterns.
    for folder in (name, "proj 2", "projects", "whats"):
        (tmp_path / folder / "data").mkdir(parents=True)
        (tmp_path / folder / "data" / "train.csv").write_text(f"sentence,label\n{folder},0\n")
    monkeypatch.chdir(tmp_path / name)
    for path in (str(tmp_path / name / "data"), "data"):
        with pytest.raises(ValueError, match="for a pattern, which may find other files; rename that part"):
            HubSource(path=path, streaming=streaming).load("train")


def test_a_folder_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").write_text("sentence,label\na,0\n")
    assert HubSource(path="~/data").load("train")[0]["sentence"] == "a"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("text", 3, "text must be the name of a column, or a list of names, not 3"),
        ("text", [None], "text must be the name of a column"),
        ("label", 0, "label must be the name of a column, or a list of names of columns, not 0"),
        ("train", ["a.csv"], "train must be text"),
        ("streaming", "maybe", "streaming must be true or false, not 'maybe'"),
    ],
)
def test_values_of_the_wrong_kind_are_refused(key: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        FileSource.from_dict({"train": "a.csv", key: value})


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("t.tsv", ["sentence\tlabel", "fine\t1", '"a\t1', "b\t0", 'c"\t1']),
        ("t.csv", ["sentence,label", "fine,1", '"a,1', "b,0", 'c",1']),
        ("t.tsv", ["label\tsentence", "1\tfine", '1\t"a', "0\tb", "0\tb2", '1\tc"']),
        ("t.tsv", ["label\tsentence", "1\tfine", '1\t"a', '0\tb"', "1\tc"]),
        ("t.tsv", ["sentence\tlabel", "fine\t1", '"a\t1', 'b"\t0', "c\t1"]),
        ("t.tsv", ["id\tsentence\tlabel", "1\tfine\t1", '2\t"a\t1', '3\tb"\t0', "4\tc\t1"]),
    ],
)
def test_a_quote_that_closes_too_late_is_a_bad_row(tmp_path: Path, caplog: Any, name: str, lines: list[str]) -> None:
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    source = FileSource(train=name, data_dir=str(tmp_path))
    message = f"{name}: in 1 row(s), the first of them row 2, column 'sentence' spans lines that look like rows"
    with pytest.raises(ValueError, match=re.escape(message) + ".*set quoting: none"):
        source.load("train")
    with pytest.raises(ValueError, match=re.escape(message) + ".*set quoting: none"):
        list(source.stream("train"))
    for rows in (source.load("train", "drop"), source.stream("train", "drop")):
        assert len(list(rows)) in (2, 3)
        assert message in caplog.text
        caplog.clear()
    assert FileSource(train=name, data_dir=str(tmp_path), quoting="standard").load("train").num_rows in (2, 3)
    plain = FileSource(train=name, data_dir=str(tmp_path), quoting="none")
    assert plain.load("train").num_rows == len(list(plain.stream("train"))) == len(lines) - 1
    assert plain.load("train")["sentence"][1] == '"a'
    assert not caplog.text


def test_quotes_are_plain_characters_where_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text('"s"\tlabel\n"never closed\t1\n"all"\t0\na ""b\t1\n')
    rows = FileSource(train="t.tsv", data_dir=str(tmp_path), quoting="none").load("train")
    assert rows[:] == {'"s"': ['"never closed', '"all"', 'a ""b'], "label": ["1", "0", "1"]}
    with pytest.raises(ValueError, match="quoting 'nome' is unknown; did you mean 'none'"):
        FileSource.from_dict({"train": "t.tsv", "quoting": "nome"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "sentence\tlabel\nWell, yes, no\t1\n", "separated by tabs, not commas: set delimiter to tab"),
        ("t.csv", "sentence;label\nWell\t1\n", "separated by semicolons, not commas: set delimiter to ';'"),
        ("t.tsv", "sentence,label\nWell,1\n", "separated by commas, not tabs: set delimiter to ','"),
    ],
)
def test_another_delimiter_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    for streaming in (False, True):
        with pytest.raises(ValueError, match=re.escape(message)):
            read_file(str(tmp_path / name), streaming=streaming)


@pytest.mark.parametrize("word", ["tab", r"\t", "\t"])
def test_a_tab_may_be_written_as_it_can_be_typed(tmp_path: Path, word: str) -> None:
    (tmp_path / "t.csv").write_text('sentence\tlabel\n"a ""b"""\t\n')
    for rows in (read_file(str(tmp_path / "t.csv"), word), read_file(str(tmp_path / "t.csv"), word, streaming=True)):
        assert list(rows) == [{"sentence": 'a "b"', "label": ""}]


@pytest.mark.parametrize("delimiter", ["", ";;", "||", r"\s+", '"', "\n", "comma"])
def test_a_delimiter_of_more_than_a_character_is_no_pattern(delimiter: str) -> None:
    with pytest.raises(ValueError, match="delimiter must be one character such as ';', or tab, not"):
        FileSource.from_dict({"train": "a.csv", "delimiter": delimiter})
    with pytest.raises(ValueError, match="delimiter must be one character"):
        read_file("a.csv", delimiter)


def test_rows_that_a_quote_merges_are_refused_whoever_reads_the_file(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text('id\tsentence\n1\t"a\n2\tb"\n')
    with pytest.raises(ValueError, match="row 1, column 'sentence' spans lines that look like rows"):
        read_file(str(tmp_path / "t.tsv"))
    assert read_file(str(tmp_path / "t.tsv"), quoting="none")["id"] == ["1", "2"]
    assert read_file(str(tmp_path / "t.tsv"), on_bad_rows="drop")["id"] == ["1"]


def test_one_column_is_no_other_delimiter(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('"a|b"\nWell\n')
    assert read_file(str(tmp_path / "t.csv"))[:] == {"a|b": ["Well"]}
    (tmp_path / "u.csv").write_text("a|b\nWell\n")
    assert read_file(str(tmp_path / "u.csv"), ",")[:] == {"a|b": ["Well"]}


def test_texts_of_several_lines_are_no_such_quotes(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "t.tsv").write_text('sentence\tlabel\n"one line,\nand another"\t1\n')
    assert FileSource(train="t.tsv", data_dir=str(tmp_path)).load("train").num_rows == 1
    (tmp_path / "t.csv").write_text('sentence,label\n"one line\nand another, long",1\n"a b\nc, d",0\n')
    assert FileSource(train="t.csv", data_dir=str(tmp_path)).load("train").num_rows == 2
    assert not caplog.text


def test_a_streamed_hub_dataset_keeps_the_names_of_its_classes_in_every_split(tmp_path: Path) -> None:
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    rows = Dataset.from_dict({"sentence": ["a", "b"], "label": [1, 0]}, features=features)
    for split in ("train", "validation"):
        rows.to_parquet(str(tmp_path / f"{split}.parquet"))
    for streaming in (False, True):
        source = HubSource(path=str(tmp_path), streaming=streaming)
        assert source.load("validation").features == features
        assert source.stream("train").features == features


def test_an_array_of_json_may_have_null_on_a_line_of_its_own(tmp_path: Path) -> None:
    rows = [{"sentence": "a", "label": "1", "other": [None, None]}, {"sentence": "b", "label": "0", "other": [None]}]
    (tmp_path / "rows.json").write_text(json.dumps(rows, indent=2))
    assert read_file(str(tmp_path / "rows.json"))["sentence"][:] == ["a", "b"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("name", ["data[1]", "data*", "data?", "proj [2024]/data", "a{b}c", "data [!a-z]", "~data"])
def test_a_files_name_is_no_pattern(tmp_path: Path, name: str, suffix: str, streaming: bool) -> None:
    contents = {".csv": "text\n{}\n", ".jsonl": '{{"text": "{}"}}\n'}
    for other in ("data1", "data2", "dataX", "proj 2/data", "abc", "data !", "data [2024]"):
        (tmp_path / f"{other}{suffix}").parent.mkdir(exist_ok=True)
        (tmp_path / f"{other}{suffix}").write_text(contents[suffix].format("another file"))
    path = tmp_path / f"{name}{suffix}"
    path.parent.mkdir(exist_ok=True)
    path.write_text(contents[suffix].format("this file"))
    assert list(read_file(str(path), streaming=streaming)) == [{"text": "this file"}]


def test_what_chains_file_systems_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a::b.csv").write_text("text\na\n")
    with pytest.raises(ValueError, match="'::' in a path chains file systems"):
        read_file(str(tmp_path / "a::b.csv"))


def test_a_stream_counts_rows_from_the_files_beginning(tmp_path: Path) -> None:
    lines = ["sentence\tlabel", *(f"film {i}\t1" for i in range(2500)), '"a\t1', "b\t0", 'c"\t1']
    (tmp_path / "t.tsv").write_text("\n".join(lines) + "\n")
    source = FileSource(train="t.tsv", data_dir=str(tmp_path))
    with pytest.raises(ValueError, match="the first of them row 2501, column 'sentence' spans lines"):
        list(source.stream("train"))


HEADERLESS = {"train": "t.tsv", "columns": ["text", "labels", "id"]}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("name", "delimiter"), [("t.tsv", "\t"), ("t.csv", ",")])
def test_the_columns_of_a_file_without_a_header_are_named(
    tmp_path: Path, name: str, delimiter: str, streaming: bool
) -> None:
    lines = [["A film.", "27", "a1"], ["NA", "4", "a2"]]
    (tmp_path / name).write_text("".join(f"{delimiter.join(line)}\n" for line in lines))
    rows = read_file(str(tmp_path / name), streaming=streaming, columns=["text", "labels", "id"])
    assert list(rows) == [dict(zip(["text", "labels", "id"], line, strict=True)) for line in lines]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.tsv", "a\t1\n", r"cannot be read as csv: columns names 3 column\(s\), and its first row has 2"),
        ("t.tsv", "a\t1\tx\ty\n", r"columns names 3 column\(s\), and its first row has 4"),
        ("t.tsv", "a\t1\tx\nb\t1\tx\ty\n", "Expected 3 fields in line 2, saw 4"),
        ("t.tsv", "a\t1\tx\nb\t1\tx\nc\t1\tx\ty\n", "Expected 3 fields in line 3, saw 4"),
        (
            "t.jsonl",
            '{"text": "a"}\n',
            "has names of its own: columns is for conll, csv and tsv",
        ),
    ],
)
def test_columns_that_a_file_does_not_have_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        FileSource(**{**HEADERLESS, "train": name}, data_dir=str(tmp_path)).load("train")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"columns": ["a", "a"]}, "columns names column 'a' twice"),
        ({"columns": [1]}, r"columns must be a list of names of columns, not \[1\]"),
        ({"columns": 3}, "columns must be a list of names of columns, not 3"),
        ({"label": ["a", "a"]}, "label names column 'a' twice"),
        ({"label": []}, r"label must be the name of a column, or a list of names of columns, not \[\]"),
        ({"label": ["a", 1]}, "label must be the name of a column"),
    ],
)
def test_names_that_are_none_are_refused(keys: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FileSource(**keys)


def test_one_column_without_a_header_may_have_what_separates_others(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("A film, a plot.\nThe end, at last.\n")
    assert read_file(str(tmp_path / "t.tsv"), columns=["text"])["text"][:] == ["A film, a plot.", "The end, at last."]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", ['[{"s": "fine"},\n{"s": "a %s"}]', '{"s": ["fine"]}\n{"s": ["a %s b"]}\n'])
def test_half_a_character_of_json_is_not_left_out(tmp_path: Path, form: str, streaming: bool) -> None:
    (tmp_path / "t.json").write_text(form % r"\ud83d")
    with pytest.raises(
        ValueError, match=r"t\.json cannot be read as json: line 2 has \\ud83d, one half of a character"
    ):
        read_file(str(tmp_path / "t.json"), streaming=streaming)
    (tmp_path / "t.json").write_text(form % r"\ud83d\uDE00 \\ud83d")
    (_, row) = read_file(str(tmp_path / "t.json"), streaming=streaming)
    assert "\N{GRINNING FACE} \\ud83d" in str(row["s"]).replace(r"\\u", r"\u")
