import torch
from torch import nn

from hf_multitask.training.callbacks import EmbeddingGradientKeeper


def test_the_embeddings_gradient_stays_in_its_memory_and_is_the_dense_one() -> None:
    plain, kept = nn.Embedding(50, 4, padding_idx=0), nn.Embedding(50, 4, padding_idx=0)
    kept.load_state_dict(plain.state_dict())
    keeper = EmbeddingGradientKeeper(kept)
    keeper.on_train_begin(None, None, None)
    places = set()
    for step in range(3):
        torch.manual_seed(step)
        plain.zero_grad()
        keeper.on_step_begin(None, None, None)
        for _ in range(2):  # accumulated batches
            ids, weights = torch.randint(50, (6, 7)), torch.randn(6, 7, 4)
            for embedding in (plain, kept):
                (embedding(ids) * weights).sum().backward()
        torch.testing.assert_close(kept.weight.grad, plain.weight.grad)
        assert kept.weight.grad.layout == torch.strided
        places.add(kept.weight.grad.data_ptr())
        kept.zero_grad()
    assert len(places) == 1

    keeper.on_train_end(None, None, None)
    assert not kept.sparse
    assert kept.weight.grad is None
