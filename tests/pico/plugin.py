"""Step 3: the lines of the registry; and the files of the steps before, as if in their places."""

import sys

from tests import pico
from tests.pico import library
from tests.pico.backend import BACKEND
from unified_loss import _dispatch as dispatch

dispatch.LOADERS["pico"] = lambda: BACKEND
dispatch.OLDEST["pico"] = "1.0"
sys.modules["pico"] = pico
sys.modules["unified_loss._libraries.pico"] = library
