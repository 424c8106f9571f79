"""The command line: one verb per row of the README, and errors in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from pydantic import ValidationError

from stochcon import code_verbs, model_verbs
from stochcon.config import explain

USAGE = """\
usage: stochcon VERB ...

  pretrain RECIPE     learn a representation without labels; --resume DIR goes on with a run
  evaluate DIR        what a run's features and bits are worth, beside the baselines; --curve: by number of bits
  encode DIR IMAGES   codes of a folder's, archive's or data set's images, as a Parquet file
  search CODES QUERY  the images of a file of codes that are nearest to some
  export DIR          the network as an ONNX file, or as a Hugging Face Hub folder
  classify DIR        fine-tuned, frozen or from nothing, with all labels or few (A.3)
  paper FIGURE        the paper's table1, figure2 ... figure5 or all: run, drawn, beside its numbers
  demo                the main job, shortened, with a table and a picture
  recipes             what can be pretrained, at what cost, with what result

`stochcon VERB --help` says more; `stochcon pretrain RECIPE --help` lists every option."""

VERBS: dict[str, Callable[[list[str]], None]] = {
    "pretrain": model_verbs.pretrain,
    "evaluate": model_verbs.evaluate,
    "classify": model_verbs.classify,
    "encode": code_verbs.encode,
    "search": code_verbs.search,
    "export": code_verbs.export,
    "paper": model_verbs.paper,
    "demo": model_verbs.demo,
    "recipes": model_verbs.list_recipes,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit status: 0, or 2 after one line about what was wrong, 130 when interrupted, 141 when
    nobody reads on."""
    verb, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        if verb in ("-h", "--help"):
            print(USAGE)
        elif verb in VERBS:
            VERBS[verb](rest)
        else:
            raise ValueError(f"there is no verb {verb!r}; there are {', '.join(VERBS)}")
        print(end="", flush=True)
        return 0
    except BrokenPipeError:  # the reader has seen enough, as in `stochcon recipes | head -3`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's flush at exit complains
        return 141
    except ValidationError as error:
        message = explain(error)
    except (ValueError, OSError, FloatingPointError) as error:
        message = str(error)
    except KeyboardInterrupt as stop:
        print(f"stochcon: {'; '.join(['interrupted', *map(str, stop.args)])}", file=sys.stderr)
        return 130
    print(f"stochcon: error: {' '.join(message.split())}", file=sys.stderr)
    return 2
