"""Every compressor keeps the laws of :class:`anabranch.compress.Converter`."""

import io
import time

import pytest
import torch
from torch import nn

from anabranch.catalog import parts
from anabranch.compress import Cast, Converter
from anabranch.compress.base import fidelity, timing

COMPRESSORS = parts("compressor")
EACH = pytest.mark.parametrize("make", [entry.load() for entry in COMPRESSORS.values()], ids=list(COMPRESSORS))


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4))


def convolutional() -> nn.Module:
    norm = nn.BatchNorm2d(1)
    nn.init.constant_(norm.running_mean, 0.2)
    return nn.Sequential(nn.Conv2d(1, 1, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(4, 3))


MODULES = {"dense": (dense, (3,)), "convolutional": (convolutional, (1, 4, 4))}
ON = pytest.mark.parametrize("name", MODULES)


def given(name: str, batch: int = 6, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, torch.Tensor]:
    make, shape = MODULES[name]
    torch.manual_seed(0)
    return make().to(dtype), torch.randn(batch, *shape, dtype=dtype)


@EACH
@ON
def test_original_is_left_bit_for_bit(make, name):
    module, example = given(name)
    module.train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    kept = example.clone()
    converted = make().convert(module, example, repeats=1).module
    assert module.state_dict().keys() == before.keys()
    assert all(
        torch.equal(value, before[key]) and value.dtype == before[key].dtype
        for key, value in module.state_dict().items()
    )
    assert all(part.training for part in module.modules()) and torch.equal(kept, example)
    owned = {t.untyped_storage().data_ptr() for t in module.state_dict().values()}
    assert owned.isdisjoint(t.untyped_storage().data_ptr() for t in converted.state_dict().values())


@EACH
@ON
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 7])
def test_result_maps_the_same_inputs_to_outputs_of_the_same_shape_and_type(make, name, batch, dtype):
    module, example = given(name, batch, dtype)
    converted = make().convert(module, example, repeats=1).module
    assert isinstance(converted, nn.Module) and not converted.training
    outcome, expected = converted(example), module.eval()(example)
    assert outcome.shape == expected.shape and outcome.dtype == expected.dtype and outcome.isfinite().all()
    assert converted(example[:1]).shape == expected[:1].shape


@EACH
@ON
def test_lossless_ones_keep_the_outputs_and_all_come_near(make, name):
    module, example = given(name, batch=40)
    report = make().convert(module, example, repeats=1).report
    assert report.fidelity.relative < (1e-5 if make().lossless else 0.2)
    assert report.fidelity.agreement > 0.85


@EACH
@ON
def test_reported_fidelity_is_what_the_outputs_say(make, name):
    module, example = given(name, batch=40)
    converted, report = make().convert(module, example, repeats=1)
    with torch.no_grad():
        expected, outcome = module.eval()(example), converted(example)
    assert report.fidelity.largest == pytest.approx(float((outcome - expected).abs().max()), abs=1e-7)
    assert report.fidelity.agreement == pytest.approx(float((outcome.argmax(1) == expected.argmax(1)).float().mean()))


@EACH
@ON
def test_reported_bytes_are_those_of_a_file(make, name, tmp_path):
    module, example = given(name)
    converted, report = make().convert(module, example, repeats=1)
    for state, size in ((module, report.bytes_before), (converted, report.bytes_after)):
        path = tmp_path / "state.pt"
        torch.save(state.state_dict(), path)
        assert abs(path.stat().st_size - size) < 512  # the file's name is written into it
    assert report.compression == report.bytes_before / report.bytes_after


@EACH
def test_reported_seconds_are_measured(make):
    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = dense()

        def forward(self, x):
            time.sleep(0.01)
            return self.inner(x)

    torch.manual_seed(0)
    report = make().convert(Slow(), torch.randn(4, 3), repeats=3).report
    assert report.seconds.before > 0.01 and report.seconds.after > 0
    assert report.seconds.threads == torch.get_num_threads()
    assert report.speedup == report.seconds.before / report.seconds.after


@EACH
@ON
def test_is_deterministic_and_what_it_gives_saves_and_loads(make, name):
    module, example = given(name)
    first, second = (make().convert(module, example, repeats=1).module for _ in range(2))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    with torch.no_grad():
        expected = first(example)
        assert torch.equal(expected, second(example))
        for value in second.state_dict().values():
            value.zero_()
        second.load_state_dict(torch.load(file))
        assert torch.equal(expected, second(example))


@EACH
def test_refuses_an_empty_example_and_outputs_that_are_no_tensor(make):
    with pytest.raises(ValueError, match="at least one example"):
        make().convert(dense(), torch.zeros(0, 3))
    with pytest.raises(ValueError, match="one tensor; got tuple"):
        make().convert(nn.LSTM(3, 2), torch.zeros(1, 2, 3))


def test_a_converter_that_changes_the_outputs_shape_is_caught():
    class Cuts(Converter):
        def transform(self, module, example):
            return module[:2]

    with pytest.raises(RuntimeError, match=r"Cuts changed the output from \(2, 4\)"):
        Cuts().convert(dense(), torch.randn(2, 3))


def test_half_precision_takes_modules_of_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = dense()

        def forward(self, x, numbers):
            return self.inner(x) + numbers[:, None]

    converted, report = Cast().convert(Two(), (torch.randn(6, 3), torch.arange(6)), repeats=1)
    assert converted(torch.randn(2, 3), torch.arange(2)).dtype == torch.float32 and report.fidelity.relative < 0.02


def test_differences_are_taken_of_doubles():
    expected = torch.tensor([[40000.0, 1.0]], dtype=torch.float16)
    assert fidelity(expected, -expected).largest == 80000


@pytest.mark.usefixtures("unchecked")
def test_seconds_on_an_accelerator_end_with_its_work(monkeypatch):
    class There(torch.Tensor):
        device = torch.device("cuda", 1)

    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    timing(nn.Identity(), nn.Identity(), torch.zeros(1).as_subclass(There), repeats=1)
    assert waited == [There.device] * 2 * 2 * 3
    timing(nn.Identity(), nn.Identity(), torch.zeros(1), repeats=1)
    assert len(waited) == 12
