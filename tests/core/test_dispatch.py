"""Which backend serves which array, and what belongs to none."""

import importlib
import importlib.metadata
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests.helpers import toy
from tests.helpers.backends import Backend
from unified_loss import BackendError, cross_entropy, cross_entropy_with_grad
from unified_loss import _dispatch as dispatch
from unified_loss import _libraries as libraries
from unified_loss._backends.numpy import NumpyBackend
from unified_loss._diagnosis._operations import aliases
from unified_loss._types import Operands, Plan, Spec

LOGITS = np.array([[1, 2, 3], [3, 2, 1]], np.float32)
LABELS = np.array([0, 2])
LOSS = cross_entropy(LOGITS, LABELS)


class Foreign:
    """An object of no array library."""


@pytest.mark.parametrize("logits", [[[0.0, 1.0]], (0.0, 1.0), 1, 1.0])
def test_python_data_as_logits_gets_the_conversion(logits: Any) -> None:
    """R2: numbers and sequences are no logits, and the error says how to make them some."""
    with pytest.raises(BackendError) as caught:
        cross_entropy(logits, [0])
    (fix,) = caught.value.fixes
    assert str(caught.value).endswith(f"\n  hint: {fix}")
    made = fix.apply(logits, [0])["logits"]
    assert (made.dtype, made.tolist()) == (np.float64, np.asarray(logits).tolist())


@pytest.mark.parametrize(
    "logits", [None, "scores", b"", {}, set(), object(), Foreign(), np, Foreign]
)
def test_unknown_logits_are_refused(logits: Any) -> None:
    """R2: the error names the type, all supported libraries and those installed."""
    with pytest.raises(BackendError) as caught:
        cross_entropy(logits, [0])
    first, supported, installed = str(caught.value).splitlines()
    kind = f"{type(logits).__module__}.{type(logits).__qualname__}".removeprefix("builtins.")
    assert first == f"logits must be an array of a supported library, but are of type {kind}."
    known = libraries.known_names()
    others = "any library with __array_namespace__"
    assert supported == f"  supported: {', '.join(known)}, and {others}"
    names = installed.removeprefix("  installed: ").split(", ")
    packages = importlib.metadata.packages_distributions()
    assert names == [name for name in known if name in packages]


@pytest.mark.parametrize("kind", [np.ndarray, np.float32, type, Foreign])
def test_a_class_is_no_array(kind: type) -> None:
    """R2: the class of an array, given in its place, is a `BackendError` too."""
    with pytest.raises(BackendError, match="logits must be an array"):
        cross_entropy(kind, [0])


def test_foreign_labels_name_both_libraries_and_the_conversion(
    backend: Backend, installed: list[Backend]
) -> None:
    """R2: arrays of a third library are refused; NumPy's are host data."""
    logits = backend.asarray(LOGITS)
    for other in installed:
        if other.name in {backend.name, "numpy"}:
            continue
        with pytest.raises(BackendError) as caught:
            cross_entropy(logits, other.asarray(LABELS.astype(np.int32)))
        text = str(caught.value)
        assert backend.name in text
        assert other.name in text
        host = "labels.detach().cpu().numpy()" if other.name == "torch" else "labels"
        code = dispatch.backend_of(logits).convert(host).partition(" with ")[0]
        assert code.removesuffix(")") in text  # array-API libraries are told the device as well
        if not hasattr(backend.library.xp, "asarray") and code.startswith("xp."):
            continue  # the oldest MLX has `array` alone
        named = {name: importlib.import_module(path) for name, path in aliases(code).items()}
        # Not every library reads every other.
        labels = LABELS.astype(np.int32) if host == "labels" else other.asarray(LABELS)
        named |= {"xp": backend.library.xp, "logits": logits, "labels": labels}
        assert backend.owns(eval(code, named))  # noqa: S307 (people are told to run it)


def test_every_backend_serves_its_own_arrays(backend: Backend) -> None:
    """R2, R21: dispatch by the class of the logits."""
    logits = backend.asarray(LOGITS)
    found = dispatch.backend_of(logits)
    assert found.owns(logits)
    assert dispatch.backend_of(logits) is found
    assert backend.owns(cross_entropy(logits, backend.asarray(LABELS)))


def test_a_library_with_a_namespace_needs_no_line() -> None:
    """R2: whatever has `__array_namespace__` works, labels and gradient included."""
    loss, gradient = cross_entropy_with_grad(
        toy.Array(LOGITS), toy.Array(LABELS), class_weight=[1, 2, 3], label_smoothing=0.25
    )
    wanted = cross_entropy_with_grad(LOGITS, LABELS, class_weight=[1, 2, 3], label_smoothing=0.25)
    assert isinstance(loss, toy.Array)
    assert isinstance(gradient, toy.Array)
    np.testing.assert_allclose(np.asarray(loss), wanted[0], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(gradient), wanted[1], rtol=1e-6)


class Wrapper:
    """The array of a library of its own, without a namespace."""

    __module__ = "walnut.core"

    def __init__(self, data: Any) -> None:
        self.data = data


class WrapperChild(Wrapper):
    """A subclass that another package made."""

    __module__ = "elsewhere"


class WalnutBackend(NumpyBackend):
    """What one file of `_backends` would hold."""

    name = "walnut"

    def owns(self, value: object) -> bool:
        """Its arrays are wrappers."""
        return isinstance(value, Wrapper)

    def spec(self, array: Any) -> Spec:
        """What is wrapped tells."""
        return Spec(self.name, array.data.shape, array.data.dtype.name)

    def outline(self, *arrays: Any) -> None:
        """None."""

    def loss(self, plan: Plan, operands: Operands) -> Any:
        """That of NumPy, wrapped."""
        return Wrapper(super().loss(plan, operands._replace(logits=operands.logits.data)))


@pytest.mark.parametrize("kind", [Wrapper, WrapperChild])
def test_a_new_backend_is_one_file_and_one_line(
    monkeypatch: pytest.MonkeyPatch, kind: type[Wrapper]
) -> None:
    """R2: a module and its line in `LOADERS` serve a library, its subclasses included."""
    with pytest.raises(BackendError, match="supported library"):
        cross_entropy(kind(LOGITS), LABELS)
    monkeypatch.setitem(dispatch.LOADERS, "walnut", WalnutBackend)
    loss = cross_entropy(kind(LOGITS), LABELS)
    assert isinstance(loss, Wrapper)
    assert loss.data == LOSS
    with pytest.raises(BackendError, match=r"supported: numpy.*walnut"):
        cross_entropy(None, LABELS)


def test_what_a_backend_does_not_own_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """R2: an object of a known package need not be an array."""
    monkeypatch.setitem(dispatch.LOADERS, "walnut", WalnutBackend)
    stranger = type("Dataset", (), {"__module__": "walnut.data"})()
    with pytest.raises(BackendError, match=r"but are of type walnut\.data\.Dataset"):
        cross_entropy(stranger, LABELS)


def test_subclasses_are_arrays_of_their_library() -> None:
    """R2: a subclass with the library's own semantics is accepted."""
    mine = LOGITS.view(type("Mine", (np.ndarray,), {}))
    assert cross_entropy(mine, LABELS) == LOSS
    torch = pytest.importorskip("torch")
    mine = torch.tensor(LOGITS).as_subclass(type("Mine", (torch.Tensor,), {}))
    assert float(cross_entropy(mine, LABELS)) == pytest.approx(float(LOSS))


def torch_oddities(torch: Any) -> dict[str, Any]:
    """Tensors that are no plain tensors, each with a word of its refusal."""
    plain = torch.tensor(LOGITS)
    return {
        "layout is torch.sparse_coo": plain.to_sparse(),
        "layout is torch.sparse_csr": plain.to_sparse_csr(),
        "rows of different lengths": torch.nested.nested_tensor([plain[0], plain[1, :2]]),
        "quantized": torch.quantize_per_tensor(plain, 0.1, 0, torch.quint8),
        "mask would be lost": torch.masked.masked_tensor(plain, plain > 1),
    }


@pytest.mark.filterwarnings(
    "ignore:.*(nested tensors|MaskedTensors|[Ss]parse CSR|quantiz).*:UserWarning"
)
def test_odd_tensors_are_refused() -> None:
    """R2: sparse, nested, quantized and masked tensors, as logits and as labels."""
    torch = pytest.importorskip("torch")
    for reason, tensor in torch_oddities(torch).items():
        for arguments in ((tensor, LABELS), (torch.tensor(LOGITS), tensor)):
            with pytest.raises(BackendError, match=f"must be an ordinary dense array.*{reason}"):
                cross_entropy(*arguments)


def test_ragged_and_sparse_tensorflow_values_are_refused() -> None:
    """R2: ragged and sparse tensors and indexed slices, as logits and as labels."""
    tf = pytest.importorskip("tensorflow")
    plain = tf.constant(LOGITS)
    for odd in (tf.RaggedTensor.from_tensor(plain), tf.sparse.from_dense(plain),
                tf.IndexedSlices(plain, tf.constant([0, 1]))):  # fmt: skip
        for arguments in ((odd, LABELS), (plain, odd)):
            with pytest.raises(BackendError, match="must be an ordinary dense array"):
                cross_entropy(*arguments)


def test_masked_arrays_are_never_stripped(backend: Backend) -> None:
    """R2: NumPy's masked arrays are refused beside the logits of any library."""
    arguments = {
        "labels": LABELS,
        "class_weight": np.ones(3),
        "sample_weight": np.ones(2),
        "normalizer": np.array(2.0),
    }
    for name, values in arguments.items():
        masked = arguments | {name: np.ma.masked_array(values)}
        with pytest.raises(BackendError, match=f"{name} must be an ordinary dense array.*mask"):
            cross_entropy(backend.asarray(LOGITS), **masked)
    with pytest.raises(BackendError, match=r"logits must be an ordinary dense array.*mask"):
        cross_entropy(np.ma.masked_array(LOGITS), LABELS)


def test_masked_dask_chunks_are_refused() -> None:
    """R2: a Dask array of masked chunks too."""
    da = pytest.importorskip("dask.array")
    masked = da.ma.masked_array(da.from_array(LOGITS), da.from_array(LOGITS > 1))
    for arguments in ((masked, LABELS), (da.from_array(LOGITS), masked)):
        with pytest.raises(BackendError, match="chunks are masked"):
            cross_entropy(*arguments)


def test_sparse_scipy_arrays_are_refused() -> None:
    """R2: they belong to no supported library."""
    sparse = pytest.importorskip("scipy.sparse").csr_array(LOGITS)
    for arguments in ((sparse, LABELS), (LOGITS, sparse)):
        with pytest.raises(BackendError, match=r"scipy\.sparse"):
            cross_entropy(*arguments)


def test_placement_that_a_library_refuses_is_refused() -> None:
    """R2: torch combines nothing across devices, and the error has the move to write."""
    torch = pytest.importorskip("torch")
    labels = torch.zeros(2, dtype=torch.int64, device="meta")
    with pytest.raises(BackendError, match=r"device meta.*\n.*labels\.to\(logits\.device\)"):
        cross_entropy(torch.tensor(LOGITS), labels)


LOADS = """
import sys
import numpy as np
from unified_loss import cross_entropy

def loaded():
    prefix = "unified_loss._backends."
    return {name.removeprefix(prefix) for name in sys.modules if name.startswith(prefix)}

assert not loaded()
cross_entropy(np.zeros((2, 3)), [0, 1])
assert loaded() <= {"numpy", "_array_ops", "_numpy_short"}, loaded()
from unified_loss import _libraries
logits = _libraries.load("{name}").asarray(np.zeros((2, 3)), "float32")
assert "{name}" not in loaded()
cross_entropy(logits, [0, 1])
assert "{name}" in loaded()
"""


@pytest.mark.parametrize("name", [name for name in dispatch.LOADERS if name != "numpy"])
def test_a_backend_loads_with_its_first_array(name: str) -> None:
    """R2: importing the framework is not enough, nor is a call with other arrays."""
    if not libraries.named(name).is_installed():
        pytest.skip(f"{name} is not installed")
    subprocess.run([sys.executable, "-c", LOADS.replace("{name}", name)], check=True)


@pytest.mark.filterwarnings("ignore:The 202:UserWarning")  # that a release is not the default
@pytest.mark.parametrize("release", ["2022.12", "2023.12", "2024.12"])
@pytest.mark.parametrize(
    "options", [{}, {"class_weight": [1, 2, 3], "label_smoothing": 0.25, "z_loss": 0.5}], ids=str
)
def test_older_standards_are_enough(release: str, options: dict[str, Any]) -> None:
    """R2: scalars in `where` and `take_along_axis` came with 2024.12."""
    xp = pytest.importorskip("array_api_strict")
    labels = np.array([0, -100])
    truth = cross_entropy_with_grad(LOGITS, labels, **options)
    with xp.ArrayAPIStrictFlags(api_version=release):
        logits = xp.asarray(LOGITS)
        found = cross_entropy_with_grad(logits, xp.asarray(labels), **options)
        dense = cross_entropy(logits, xp.asarray(np.eye(3, dtype=np.float32)[[0, 2]]))
    for ours, other in zip(truth, found, strict=True):
        np.testing.assert_allclose(np.asarray(other), ours, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(dense), LOSS, rtol=1e-6)
