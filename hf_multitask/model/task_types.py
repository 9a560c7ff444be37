"""The kinds of task that this package has: importing one registers it. Whoever takes `TaskConfig` from here has all."""

from .masked_language_modeling import MaskedLanguageModeling as MaskedLanguageModeling
from .multi_label_classification import MultiLabelClassification as MultiLabelClassification
from .multiple_choice import MultipleChoice as MultipleChoice
from .question_answering import QuestionAnswering as QuestionAnswering
from .ranking import Ranking as Ranking
from .regression import Regression as Regression
from .single_label_classification import SingleLabelClassification as SingleLabelClassification
from .task_config import TaskConfig as TaskConfig
from .token_classification import TokenClassification as TokenClassification
