"""`rkt.recalibrate`: statistics of all values in all batches, nothing else changed, the old ones back on request."""

import copy

import pytest
import torch
from torch import nn

import rekernel.torch as rkt
from rekernel import RekernelError


class Net(nn.Module):
    """Two norms of images and one of features, with a dropout that would change what the last one sees."""

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 4, 3, padding=1), norm(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 6, 3, stride=2, padding=1), norm(6)
        self.drop, self.bn3, self.head = nn.Dropout(0.5), nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return self.head(self.bn3(self.drop(x.mean((2, 3)))))


def net(**options):
    torch.manual_seed(0)
    model = Net(**options).eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.num_batches_tracked.fill_(7)
    return model


def pictures(count, size=16, seed=1):
    x = torch.randn(count, 2, size, size, generator=torch.Generator().manual_seed(seed))
    return 3 * x + torch.linspace(-4, 4, count)[:, None, None, None]  # batches in order have different means


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second, *, but=()):
    return all(torch.equal(first[name], second[name]) for name in first if not name.endswith(but or ("\0",)))


STATISTICS = ("running_mean", "running_var")


def test_the_first_norm_has_the_mean_and_the_variance_of_all_values_together():
    model, x = net(), pictures(23)
    rkt.recalibrate(model, x.split(5))  # the last batch has three images
    with torch.no_grad():
        seen = copy.deepcopy(model).conv1.double()(x.double())
    torch.testing.assert_close(model.bn1.running_mean.double(), seen.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.bn1.running_var.double(), seen.var((0, 2, 3)), rtol=1e-5, atol=0)
    # The mean of the variances of sorted batches, which torch's update_bn gives, is another one.
    parts = torch.stack([part.var((0, 2, 3)) for part in seen.split(5)]).mean(0)
    assert (parts / seen.var((0, 2, 3))).min() < 0.8


def test_with_one_batch_it_is_what_torch_does():
    ours, x = net(), pictures(12)
    theirs = copy.deepcopy(ours)
    rkt.recalibrate(ours, [x])
    theirs.drop.p = 0  # update_bn leaves dropout on
    torch.optim.swa_utils.update_bn([x], theirs)
    for name, value in theirs.state_dict().items():
        if name.endswith(STATISTICS):
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_evaluated_on_the_same_batch_every_norm_normalises():
    model, x = net(), pictures(40)
    rkt.recalibrate(model, x)
    seen = []
    for norm in (model.bn1, model.bn2, model.bn3):
        norm.register_forward_hook(lambda _norm, _args, out: seen.append(out.transpose(0, 1).flatten(1)))
    with torch.no_grad():
        model(x)
    for values in seen:
        # A batch is normalised with its biased variance, and afterwards with the unbiased one: 40 values for the last.
        torch.testing.assert_close(values.mean(1), torch.zeros(len(values)), rtol=0, atol=0.01)
        torch.testing.assert_close(values.var(1), torch.ones(len(values)), rtol=0.01, atol=0)


def test_nothing_but_the_statistics_changes():
    model = net().train()
    model.bn2.eval()
    model.bn2.momentum, model.bn3.momentum = None, 0.3
    model.conv1.weight.requires_grad_(False)
    before, flags = state(model), [m.training for m in model.modules()]
    draw = torch.random.get_rng_state()
    done = rkt.recalibrate(model, pictures(8).split(4))
    after = state(model)
    assert same(before, after, but=STATISTICS)
    assert not any(torch.equal(before[name], after[name]) for name in before if name.endswith(STATISTICS))
    assert [m.training for m in model.modules()] == flags
    assert (model.bn1.momentum, model.bn2.momentum, model.bn3.momentum) == (0.1, None, 0.3)
    assert all(m.track_running_stats for m in (model.bn1, model.bn2, model.bn3))
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["conv1.weight"]
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.random.get_rng_state(), draw)
    assert (done.layers, done.unused, done.batches) == (("bn1", "bn2", "bn3"), (), 2)
    assert repr(done) == "<Recalibration of 3 layers from 2 batches>"


def test_the_old_statistics_come_back_bit_by_bit():
    model = net()
    before = state(model)
    done = rkt.recalibrate(model, pictures(8))
    first = done.layers
    again = rkt.recalibrate(model, pictures(8, seed=2))
    again.restore()
    assert not same(before, state(model))
    model.double().float()
    done.restore()
    done.restore()
    assert same(before, state(model)) and first == again.layers
    with rkt.recalibrate(model, pictures(8)) as done:
        assert not same(before, state(model)) and done.batches == 1
    assert same(before, state(model))


def test_a_recalibrated_network_is_saved_and_loaded(tmp_path):
    for form in ("dense", "factored"):
        larger = rkt.rescale(net(), 2, torch.zeros(2, 2, 8, 8), form=form)
        rkt.recalibrate(larger, pictures(8))
        rkt.save(larger, tmp_path / f"{form}.safetensors")
        again = rkt.load(net(), tmp_path / f"{form}.safetensors")
        assert torch.equal(again.bn1.running_var, larger.bn1.running_var)
        assert not torch.equal(again.bn1.running_var, net().bn1.running_var)
        with torch.no_grad():
            assert torch.equal(again.eval()(pictures(3)), larger(pictures(3)))


X = pictures(6)


@pytest.mark.parametrize(
    "batches",
    [
        X,
        [X],
        [(X, torch.zeros(6, dtype=torch.long))],
        [(torch.zeros(6, dtype=torch.long), X)],
        [[X, torch.zeros(6)]],
        [{"labels": torch.zeros(6, dtype=torch.long), "pixel_values": X}],
        {"pixel_values": X, "labels": torch.zeros(6)},
        [((X, torch.zeros(6)), {"name": ["a"] * 6})],
        [X.double()],
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, torch.zeros(6)), 6),
        (part for part in [X]),
    ],
    ids=lambda batches: type(batches).__name__,
)
def test_the_image_is_the_first_floating_point_tensor(batches):
    model, other = net(), net()
    rkt.recalibrate(model, batches)
    rkt.recalibrate(other, [X])
    assert same(state(model), state(other))


def test_a_model_in_another_dtype_gets_its_images_in_it():
    model, exact = net().bfloat16(), net()
    rkt.recalibrate(model, X)
    rkt.recalibrate(exact, X)
    assert model.bn1.running_var.dtype == torch.bfloat16
    torch.testing.assert_close(model.bn1.running_var.float(), exact.bn1.running_var, rtol=0.05, atol=0)
    model, exact = net().double(), net()
    rkt.recalibrate(model, X)
    rkt.recalibrate(exact, X)
    torch.testing.assert_close(model.bn2.running_var.float(), exact.bn2.running_var, rtol=1e-4, atol=0)


def test_a_model_with_other_arguments_is_run_by_the_caller():
    class Two(Net):
        def forward(self, x, other):
            return super().forward(x + other)

    torch.manual_seed(0)
    model, plain = Two().eval(), net()
    with pytest.raises(RekernelError, match=r"batch 1, image \(6, 2, 16, 16\): Two does not run: .*other"):
        rkt.recalibrate(model, [{"x": X, "other": X}])
    rkt.recalibrate(model, [{"x": X, "other": X}], forward=lambda net, batch: net(**batch))
    rkt.recalibrate(plain, [2 * X])
    torch.testing.assert_close(model.bn2.running_mean, plain.bn2.running_mean)


@pytest.mark.parametrize(
    ("norm", "shape"),
    [(nn.BatchNorm1d, (9, 2, 8)), (nn.BatchNorm1d, (9, 2)), (nn.BatchNorm3d, (3, 2, 4, 4, 4)),
     (nn.SyncBatchNorm, (5, 2, 4, 4))],
)  # fmt: skip
def test_every_kind_of_batch_norm(norm, shape):
    model, x = nn.Sequential(norm(2)), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    rkt.recalibrate(model, x.split(3))
    axes = [axis for axis in range(x.ndim) if axis != 1]
    torch.testing.assert_close(model[0].running_mean, x.mean(axes), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model[0].running_var, x.var(axes), rtol=1e-5, atol=0)


def test_a_norm_that_is_called_twice_has_the_statistics_of_both_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm2d(2)

        def forward(self, x):
            return self.bn(x) + self.bn(input=2 * x + 1)

    model = Twice().eval()
    rkt.recalibrate(model, X)
    both = torch.cat([X, 2 * X + 1])
    torch.testing.assert_close(model.bn.running_var, both.var((0, 2, 3)), rtol=1e-5, atol=0)


def test_a_norm_that_no_image_reaches_keeps_its_statistics_and_is_named():
    model = net()
    model.auxiliary = nn.BatchNorm2d(4)
    model.auxiliary.running_mean.fill_(5)
    done = rkt.recalibrate(model, X)
    assert done.unused == ("auxiliary",) and "auxiliary" not in done.layers
    assert torch.equal(model.auxiliary.running_mean, torch.full((4,), 5.0))
    assert repr(done).endswith("from 1 batch, 1 not reached>")


def test_excluded_norms_keep_their_statistics_but_normalise_with_them():
    model = net()
    before = state(model)
    done = rkt.recalibrate(model, X, exclude=["bn1", "re:.*3"])
    assert done.layers == ("bn2",)
    changed = {name for name, value in state(model).items() if not torch.equal(value, before[name])}
    assert changed == {"bn2.running_mean", "bn2.running_var"}
    with torch.no_grad():
        seen = model.conv2(model.bn1(model.conv1(X)).relu())
    torch.testing.assert_close(model.bn2.running_mean, seen.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)


class FrozenBatchNorm2d(nn.Module):
    """As torchvision, detectron2 and transformers have it: four buffers, no parameter."""

    def __init__(self, channels):
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(channels))

    def forward(self, x):
        scale = self.weight * self.running_var.rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


def raising(exception):
    yield X
    raise exception


def broken():
    model = net()

    def fail(_head, _args):
        raise KeyError("no such head")

    model.head.register_forward_pre_hook(fail)
    return model


@pytest.mark.parametrize(
    ("model", "batches", "words"),
    [
        (lambda: nn.Conv2d(2, 3, 3), X, "Conv2d: has no batch norm layer .*leave this step out"),
        (net, [], "batches: is empty"),
        (net, X[:0].split(1), r"bn1: sees \(0, 4, 16, 16\)"),
        (net, X.split(1), r"bn3: sees \(1, 6\), a single value of each channel, .*more images"),
        (net, [X.long()], "no floating-point tensor to be the image, but .*torch.int64; scale images as in training"),
        (net, ["picture.png"], "no floating-point tensor to be the image, but str"),
        (net, [X, X[:, :1]], r"batch 2, image \(6, 1, 16, 16\): Net does not run"),
        (lambda: net(norm=FrozenBatchNorm2d), X, r"bn1 \(FrozenBatchNorm2d\): .*exclude=\['bn1'\]"),
        (lambda: net(norm=lambda n: nn.BatchNorm2d(n, track_running_stats=False)), X,
         r"bn1 \(BatchNorm2d\): has track_running_stats=False"),
        (lambda: nn.Sequential(nn.LazyBatchNorm2d()), X, r"0 \(LazyBatchNorm2d\): has no values yet"),
        (lambda: net().to("meta"), X, r"bn1 \(BatchNorm2d\): has no values yet"),
        (net, X * torch.nan, "bn1: its new running_mean is not finite in torch.float32; look for NaN"),
        (broken, X, "Net does not run: .*no such head"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_and_leaves_the_model_as_it_was(model, batches, words):
    made = model()
    flags = [module.training for module in made.modules()]
    before = None if "has no values yet" in words else state(made)
    hooks = len(_hooks(made))
    with pytest.raises(RekernelError, match=words):
        rkt.recalibrate(made, batches)
    assert before is None or same(before, state(made))
    assert [module.training for module in made.modules()] == flags
    assert len(_hooks(made)) == hooks


def _hooks(model):
    return [hook for module in model.modules() for hook in module._forward_pre_hooks]


@pytest.mark.parametrize("exception", [OSError("the disk is gone"), KeyboardInterrupt()])
def test_an_exception_of_the_loader_passes_and_leaves_the_model_as_it_was(exception):
    model = net()
    before = state(model)
    with pytest.raises(type(exception)):
        rkt.recalibrate(model, raising(exception))
    assert same(before, state(model)) and model.bn1.track_running_stats and not model.bn1.training


def test_a_norm_that_writes_its_statistics_itself_gets_them_back_after_an_exception():
    class Own(nn.BatchNorm2d):
        def forward(self, x):
            self.running_mean.add_(1)
            self.num_batches_tracked.add_(1)
            return x

    model = nn.Sequential(Own(2))
    before = state(model)
    with pytest.raises(OSError, match="gone"):
        rkt.recalibrate(model, raising(OSError("gone")))
    assert same(before, state(model))


def test_patterns_and_norms_that_are_not_there_are_named():
    with pytest.raises(RekernelError, match="pattern bn9 matches no batch norm layer; they are bn1, bn2, bn3"):
        rkt.recalibrate(net(), X, exclude=["bn9"])
    with pytest.raises(RekernelError, match="has no batch norm layer that is not excluded"):
        rkt.recalibrate(net(), X, exclude=["*"])
    frozen = net(norm=FrozenBatchNorm2d)
    assert rkt.recalibrate(frozen, X, exclude=["bn1", "bn2"]).layers == ("bn3",)

    class Functional(Net):
        def forward(self, x):
            x = self.conv1(x)
            return nn.functional.batch_norm(x, self.bn1.running_mean, self.bn1.running_var)

    with pytest.raises(RekernelError, match=r"Functional: ran, but none of its batch norm layers \(bn1, bn2, bn3\)"):
        rkt.recalibrate(Functional(), X)


def test_statistics_too_large_for_float16_are_refused():
    model = nn.Sequential(nn.BatchNorm2d(2)).half()
    before = state(model)
    with pytest.raises(RekernelError, match=r"0: its new running_var is not finite in torch\.float16"):
        rkt.recalibrate(model, 300 * X)
    assert same(before, state(model))
