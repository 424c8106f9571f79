from .codes.encoder import Encoder as Encoder
from .codes.encoder import encode as encode
from .codes.encoder import load as load
from .codes.file import read_codes as read_codes
from .codes.packed import Codes as Codes
from .codes.search import search as search
from .codes.transformer import StochConTransformer as StochConTransformer
from .config import Config as Config
from .data.sets import load_data as load_data
from .evaluation.curve import curve as curve
from .evaluation.evaluate import evaluate as evaluate
from .evaluation.features import Features as Features
from .evaluation.features import extract as extract
from .evaluation.self_retrieval import self_retrieval as self_retrieval
from .experiments.demo import demo as demo
from .experiments.paper import paper as paper
from .exporters.export import export as export
from .exporters.export import to_onnx as to_onnx
from .exporters.hub import from_hub as from_hub
from .exporters.hub import to_hub as to_hub
from .method.objective import info_nce as info_nce
from .recipebook import recipe as recipe
from .recipebook import recipes as recipes
from .runs import load_model as load_model
from .train.check import check as check
from .train.classify import classify as classify
from .train.pretrain import pretrain as pretrain
from .train.rebit import rebit as rebit

__all__: list[str]
__version__: str
