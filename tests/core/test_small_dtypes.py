"""Labels and weights of the dtypes that NumPy has from `ml_dtypes`, and R8 in a compute dtype."""

from typing import Any

import numpy as np
import pytest

from tests.helpers.backends import Backend
from tests.helpers.plans import plan
from unified_loss import (
    BackendError,
    DTypeError,
    LabelError,
    OptionError,
    cross_entropy,
    cross_entropy_with_grad,
    explain,
)

ml_dtypes = pytest.importorskip("ml_dtypes")
LOGITS = np.array([[1, 2, 3], [3, 2, 1]], np.float32)
LABELS = np.array([0, 1])
ROWS = np.eye(3)[LABELS]
LOSS = float(cross_entropy(LOGITS, LABELS))
INTEGERS = ("int2", "int4", "uint1", "uint2", "uint4")
FLOATS = ("bfloat16", "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn", "float8_e3m4",
          "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2",
          "float8_e5m2fnuz")  # fmt: skip


def of(dtype: str, values: Any) -> np.ndarray:
    """Values in a dtype of `ml_dtypes`."""
    return np.asarray(values).astype(getattr(ml_dtypes, dtype))


def is_loss(backend: Backend, found: Any) -> bool:
    """Whether a result is the loss of the labels."""
    return float(backend.to_numpy(found)) == pytest.approx(LOSS, rel=1e-6)


@pytest.mark.parametrize("small", INTEGERS)
def test_class_ids_of_few_bits(backend: Backend, small: str) -> None:
    """R4, R6: any integer small, whether or not values are looked at, and on every route."""
    logits, labels = backend.asarray(LOGITS), of(small, LABELS)
    for options in ({}, {"check": True}, {"check": False}, {"ignore_index": None}):
        for _ in range(2):  # the second is known
            assert is_loss(backend, cross_entropy(logits, labels, **options))
    assert is_loss(backend, cross_entropy(logits, of(small, ROWS)))
    assert is_loss(backend, cross_entropy_with_grad(logits, labels[:, None])[0])
    assert explain(logits, labels).label_kind == "index"


def test_class_ids_of_few_bits_are_judged_by_value(backend: Backend) -> None:
    """R6, R17: -1 of int4 is not 15, and can be ignored."""
    logits, labels = backend.asarray(LOGITS), of("int4", [0, -1])
    with pytest.raises(LabelError) as caught:
        cross_entropy(logits, labels)
    assert (caught.value.smallest, caught.value.largest) == (-1, 0)
    found = backend.to_numpy(cross_entropy(logits, labels, ignore_index=-1, reduction="none"))
    assert found.tolist()[1] == 0 < found.tolist()[0]
    assert cross_entropy(LOGITS, of("uint4", [0, 1]), ignore_index=-1) == np.float32(LOSS)


@pytest.mark.parametrize("small", FLOATS)
def test_rows_and_weights_of_few_bits(backend: Backend, small: str) -> None:
    """R4, R7: label rows and weights of any floating small; rows sum to 1 within its precision."""
    logits = backend.asarray(LOGITS)
    weights = {"class_weight": of(small, [1, 1, 1]), "sample_weight": of(small, [1, 1])}
    assert is_loss(backend, cross_entropy(logits, of(small, ROWS), check=True, **weights))
    normalizer = of(small, 2)
    assert is_loss(backend, cross_entropy(logits, LABELS, normalizer=normalizer, **weights))
    with pytest.raises(DTypeError, match=f"must be integer class ids, but are {small}"):
        cross_entropy(logits, of(small, LABELS))


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_rows_and_weights_of_few_bits_of_the_library(dtype: str) -> None:
    """R4, R7: also where a library has them itself."""
    torch = pytest.importorskip("torch")
    logits, rows, ones = (torch.tensor(values) for values in (LOGITS, ROWS, np.ones(2)))
    rows, ones = (array.to(getattr(torch, dtype)) for array in (rows, ones))
    for labels in (rows, torch.tensor(LABELS)):
        assert float(cross_entropy(logits, labels, sample_weight=ones)) == pytest.approx(LOSS)
    jnp = pytest.importorskip("jax.numpy")
    for labels in (of(dtype, ROWS), of("int4", LABELS), of("uint2", LABELS)):
        found = cross_entropy(jnp.asarray(LOGITS), jnp.asarray(labels))
        assert float(found) == pytest.approx(LOSS)


def test_names_without_operations_are_refused() -> None:
    """R25: torch has integers of few bits by name alone."""
    torch = pytest.importorskip("torch")
    for name in ("int4", "uint1", "uint2"):
        labels = torch.empty(2, dtype=getattr(torch, name))
        for given in ({"labels": labels}, {"labels": LABELS, "sample_weight": labels}):
            with pytest.raises(BackendError, match=f"torch.{name} is a name alone"):
                cross_entropy(torch.tensor(LOGITS), **given)


def test_tensorflow_integers_of_few_bits() -> None:
    """R4: int4 as labels, rows and weights; of int2 TensorFlow can make nothing."""
    tf = pytest.importorskip("tensorflow")
    logits = tf.constant(LOGITS)
    for name in ("int4", "uint4"):
        labels, rows, ones = (tf.constant(of(name, v)) for v in (LABELS, ROWS, np.ones(2)))
        for found in (
            cross_entropy(logits, labels, sample_weight=ones),
            cross_entropy(logits, rows),
            tf.function(cross_entropy)(logits, rows),
        ):
            assert float(found) == pytest.approx(LOSS)
    with pytest.raises(BackendError, match="TensorFlow cannot compute with int2"):
        cross_entropy(logits, tf.constant(of("int2", LABELS)))


@pytest.mark.parametrize("labels", [[True, False], [True, 1], [np.True_, 1]])
def test_booleans_among_objects_are_no_class_ids(backend: Backend, labels: Any) -> None:
    """R4: objects are class ids where all are integers."""
    with pytest.raises(DTypeError):
        cross_entropy(backend.asarray(LOGITS), np.array(labels, object))
    assert is_loss(backend, cross_entropy(backend.asarray(LOGITS), np.array([0, 1], object)))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.processor(reason="what an infinite weight gives is not specified")
def test_weights_beyond_every_float(backend: Backend, sign: int) -> None:
    """R7, R25: they are infinite, as one beyond the compute dtype is, and no error of NumPy's."""
    found = cross_entropy(
        backend.asarray(LOGITS), LABELS, sample_weight=[1, sign * 10**400], reduction="none"
    )
    found = backend.to_numpy(found)
    assert np.isfinite(found[0])
    assert found[1] == sign * np.inf


VANISH = {"label_smoothing": [1e-46, 7e-46], "z_loss": [1e-46, 3.5e38, 1e39, 1e308],
          "normalizer": [1e-46, 1e39, np.float64(1e-300), np.array(1e300)]}  # fmt: skip


@pytest.mark.parametrize("name", VANISH)
def test_options_that_the_compute_dtype_cannot_hold(backend: Backend, name: str) -> None:
    """R8: neither 0 nor infinite in float32, which halves are computed in as well."""
    logits = [backend.asarray(LOGITS)]
    logits += [backend.asarray(LOGITS, dtype) for dtype in ("float16",) if dtype in backend.floats]
    for array in logits:
        for value in VANISH[name]:
            for call in (cross_entropy, cross_entropy_with_grad):
                with pytest.raises(OptionError, match=rf"{name} must be .*, in float32") as caught:
                    call(array, LABELS, **{name: value})
                assert (
                    "1e" in str(caught.value)
                    or "3.5e" in str(caught.value)
                    or "7e-" in str(caught.value)
                )
            assert isinstance(explain(array, LABELS, **{name: value}).error, OptionError)


def test_wider_dtypes_hold_more() -> None:
    """R8: float64 holds them all, and float32 what it rounds to its smallest numbers."""
    for name, values in VANISH.items():
        for value in values:
            assert not np.isnan(cross_entropy(LOGITS.astype(float), LABELS, **{name: value}))
            assert explain("float64[2, 3]", "int64[2]", **{name: float(value)}).valid
            assert not explain("bfloat16[2, 3]", "int64[2]", **{name: float(value)}).valid
    for value in (2.0**-149, 1e-38, 0.0, -0.0):
        assert plan(label_smoothing=value).label_smoothing == value
    assert plan(z_loss=3.4e38).z_loss == 3.4e38
    for dtypes in ("float32 int64", "bfloat16 int64"):
        with pytest.raises(OptionError, match="is 0 there"):
            plan(dtypes=dtypes, label_smoothing=2.0**-150)
        with pytest.raises(OptionError, match="is infinite there"):
            plan(dtypes=dtypes, z_loss=2.0**128)


def test_modules_wait_for_the_dtype() -> None:
    """R8: an option that float64 holds is refused by the call that is in float32."""
    torch = pytest.importorskip("torch")
    from unified_loss.integrations.torch import CrossEntropyLoss

    loss = CrossEntropyLoss(label_smoothing=1e-46)
    assert torch.isfinite(loss(torch.tensor(LOGITS, dtype=torch.float64), torch.tensor(LABELS)))
    with pytest.raises(OptionError, match="in float32"):
        loss(torch.tensor(LOGITS), torch.tensor(LABELS))
    with pytest.raises(OptionError, match="label_smoothing must be a number"):
        CrossEntropyLoss(label_smoothing=2)
