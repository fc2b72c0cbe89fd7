"""Each published loss against its formula, written out as its paper or its code has it."""

import inspect
import pickle

import pytest
import torch
from torch.nn import functional as F

from sssd import losses


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(3)
    shapes = [(2, 6, 5, 7), (2, 6, 3, 4), (2, 6, 1, 2)]
    student, teacher = (
        [torch.randn(s, generator=generator, dtype=torch.float64) * 2 for s in shapes]
        for _ in range(2)
    )
    return [x.requires_grad_() for x in student], [x.requires_grad_() for x in teacher]


def kl(teacher_logits, student_logits, dim):
    t = F.softmax(teacher_logits, dim)
    return t * (t.log() - F.log_softmax(student_logits, dim))


def sssd(a, b):
    p, q = a.softmax(1), b.softmax(1)
    m = (p + q) / 2
    return ((p * (p / m).log() + q * (q / m).log()).sum(1) / 2).mean().sqrt() / 3


def cwd(a, b):
    n, c = a.shape[:2]
    return 16 * kl(b.flatten(2) / 4, a.flatten(2) / 4, -1).sum() / (c * n)


def pixel_kl(a, b):
    n, _, h, w = a.shape
    return kl(b, a, 1).sum() / (n * h * w)


def pkd(a, b):
    def norm(x):
        x = x.permute(1, 0, 2, 3).reshape(x.shape[1], -1)
        return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6)

    return F.mse_loss(norm(a), norm(b)) / 2


def cosine(a, b):
    return (1 - F.cosine_similarity(a, b, dim=1)).mean() / 3


def pooled(norm, student, teacher):
    a = torch.cat([norm(x).flatten() for x in student])
    b = torch.cat([norm(x).flatten() for x in teacher])
    return F.mse_loss(a, b)


def lgd(student, teacher):
    return pooled(lambda x: F.instance_norm(x, eps=1e-5), student, teacher)


def labelenc(student, teacher):
    return pooled(lambda x: F.group_norm(x, 1, eps=1e-5), student, teacher)


def by_level(formula):
    return lambda student, teacher: sum(
        formula(a, b) for a, b in zip(student, teacher, strict=True)
    )


FORMULAS = {
    "sssd": by_level(sssd),
    "cwd": by_level(cwd),
    "pixel_kl": by_level(pixel_kl),
    "pkd": by_level(pkd),
    "cosine": by_level(cosine),
    "lgd": lgd,
    "labelenc": labelenc,
}


def test_every_loss_has_a_formula():
    assert set(FORMULAS) == set(losses.LOSSES)


@pytest.mark.parametrize("name", FORMULAS)
def test_published_formula(name, maps):
    student, teacher = maps
    ours = getattr(losses, f"{name}_loss")(student, teacher)
    expected = FORMULAS[name](student, teacher)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
    grads = torch.autograd.grad(ours, student + teacher)
    expected_grads = torch.autograd.grad(expected, student + teacher)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["cwd", "pixel_kl"])
def test_kl_grows_with_the_square_of_the_temperature(name, maps):
    """Where that is high, so that the softmax is nearly linear, nothing but its square is left."""
    loss, (student, teacher) = getattr(losses, f"{name}_loss"), maps
    at = [loss(student, teacher, temperature=t) for t in (100.0, 200.0)]
    torch.testing.assert_close(*at, rtol=0.05, atol=0)


def test_weighted_mse_is_the_foreground_term_of_fgd(maps):
    student, teacher = maps
    masks = [torch.rand(x.shape[0], *x.shape[2:]) for x in student]
    expected = sum(
        ((a - b) ** 2 * m[:, None].double()).sum()
        for a, b, m in zip(student, teacher, masks, strict=True)
    )
    torch.testing.assert_close(losses.weighted_mse_loss(student, teacher, masks), expected)


def test_js_is_a_quarter_of_kl_for_small_gaps(maps):
    student, _ = maps
    teacher = [x.detach() + 1e-3 * torch.randn_like(x) for x in student]
    ratio = losses.sssd_loss(student[:1], teacher[:1]) ** 2
    ratio = losses.pixel_kl_loss(student[:1], teacher[:1]) / ratio
    assert ratio.item() == pytest.approx(4, rel=1e-2)


MODULES = [
    kind
    for kind in vars(losses).values()
    if isinstance(kind, type) and kind.__base__ is losses.DistillationLoss
]
PUBLISHED = {  # in the paper, or in the code that the class names; for other losses nowhere
    losses.CWDLoss: {"weight": 10, "temperature": 1},
    losses.PixelKLLoss: {"weight": 10, "temperature": 1},
    losses.LGDLoss: {"weight": 1},
    losses.LabelEncLoss: {"weight": 1},
    losses.PKDLoss: {"weight": 6},
}


def test_every_loss_of_the_maps_alone_is_a_module_too():
    functions = {f for n, f in vars(losses).items() if n.endswith("_loss") and callable(f)}
    of_cells_too = {losses.ultralytics_loss, losses.weighted_mse_loss}
    assert {kind().function for kind in MODULES} == functions - of_cells_too
    assert set(MODULES) == set(losses.LOSSES.values())


def test_scores_are_matched_by_their_keys():
    a, b, zeros = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.zeros(2, 4, 4)
    dicts = {"p3": a, "p4": b}, {"p4": 2 * a, "p3": b}, {"p4": zeros, "p3": zeros + 1}
    expected = losses.ultralytics_loss([a, b], [b, 2 * a], [zeros + 1, zeros])
    assert losses.ultralytics_loss(*dicts) == expected
    with pytest.raises(TypeError, match="student has 2 levels but scores has 3"):
        losses.ultralytics_loss([a, b], [a, b], [zeros] * 3)
    with pytest.raises(TypeError, match=r"scores\[0\] has shape .*expected \(B, H, W\)"):
        losses.ultralytics_loss([a], [b], [a])


@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_weight_and_settings(kind):
    module = kind()
    assert {"weight": module.weight, **module.settings} == PUBLISHED[kind]


def test_our_weight_of_the_sum_is_the_papers_of_the_mean_over_256_channels():
    assert losses.SSSDLoss().weight == pytest.approx(75 / 256**0.5, rel=3e-3)


@pytest.mark.parametrize("kind", MODULES)
def test_module(kind, maps):
    student, teacher = maps
    module = kind()
    function, settings = module.function, module.settings
    expected = module.weight * function(student, teacher, **settings)
    torch.testing.assert_close(module(student, teacher), expected)
    changed = {k: "cells" if k == "over" else 2.5 for k in settings}
    other = pickle.loads(pickle.dumps(kind(weight=0.5, **changed)))
    expected = 0.5 * function(student, teacher, **changed)
    torch.testing.assert_close(other(student, teacher), expected)
    said = ", ".join(f"{k}={v!r}" for k, v in {"weight": 0.5, **changed}.items())
    assert repr(other) == f"{kind.__name__}({said})"
    assert not module.state_dict()
    assert not list(module.parameters())
    assert set(inspect.signature(kind).parameters) == {"weight", *settings}


@pytest.mark.parametrize("weight", [-1, float("nan")])
def test_a_weight_that_is_none_is_refused(weight):
    with pytest.raises(ValueError, match="weight is"):
        losses.LGDLoss(weight=weight)
