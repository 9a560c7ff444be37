"""The evaluations of this package: importing one registers it. Whoever takes `evaluation_of` from here has all."""

from hf_multitask.evaluation.masked_language_modeling import MaskedLanguageEvaluation as MaskedLanguageEvaluation
from hf_multitask.evaluation.multi_label_classification import MultiLabelEvaluation as MultiLabelEvaluation
from hf_multitask.evaluation.ranking import RankingEvaluation as RankingEvaluation
from hf_multitask.evaluation.regression import RegressionEvaluation as RegressionEvaluation
from hf_multitask.evaluation.single_label_classification import SingleLabelEvaluation as SingleLabelEvaluation
from hf_multitask.evaluation.task_evaluation import TaskEvaluation as TaskEvaluation
from hf_multitask.evaluation.task_evaluation import TaskPredictions as TaskPredictions
from hf_multitask.evaluation.task_evaluation import check_metrics as check_metrics
from hf_multitask.evaluation.task_evaluation import evaluation_of as evaluation_of
from hf_multitask.evaluation.task_evaluation import is_greater_better as is_greater_better
from hf_multitask.evaluation.token_classification import TokenEvaluation as TokenEvaluation
