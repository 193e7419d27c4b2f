"""Class activation maps that need one forward and one backward: formulas over activations A and gradients g.

Every function takes A and g = ∂y_c/∂A, float32 N×C×h×w, and returns the raw signed map N×h×w. Nothing is rectified or
scaled: whoever draws does that, and negative evidence stays visible in the numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor


def weighted(activation: Tensor, weights: Tensor) -> Tensor:
    """Σ_k w_k A_k: weights N×C → N×h×w."""
    return torch.einsum("nc,nchw->nhw", weights, activation)


def cam_weights(gradient: Tensor) -> Tensor:
    """CAM's w_k^c (Zhou 2016, equation 1) from the gradient at a global-average-pool + linear head: Z · mean g, N×C."""
    return gradient.sum(dim=(2, 3))


def cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """CAM (Zhou 2016, equation 2). Right only where the head is a global average pool and one linear layer."""
    return weighted(activation, cam_weights(gradient))


def gradcam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM before its ReLU (Selvaraju 2017, equations 1 and 2): α_k = mean_ij g."""
    return weighted(activation, gradient.mean(dim=(2, 3)))


def gradcam_plus_plus(activation: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM++ (Chattopadhay 2018, equations 10 and 19): w_k = Σ_ij α relu(g), α = g²/(2g² + ΣA·g³), 0 where g = 0.

    For y = exp(score) the powers of the first derivative stand for the higher ones; the positive factor exp(score) is
    left out as in public code, since it scales the whole map.
    """
    squared = gradient.square()
    denominator = 2 * squared + activation.sum(dim=(2, 3), keepdim=True) * squared * gradient
    alpha = torch.where((gradient != 0) & (denominator != 0), squared / denominator, 0.0)
    return weighted(activation, (alpha * gradient.relu()).sum(dim=(2, 3)))


def hirescam(activation: Tensor, gradient: Tensor) -> Tensor:
    """HiResCAM (Draelos 2020, equation 4): Σ_k g∘A. Sums to logit − bias where the head is linear in A."""
    return (gradient * activation).sum(dim=1)


def elementwise(activation: Tensor, gradient: Tensor) -> Tensor:
    """Element-wise Grad-CAM (Draelos 2020, as in pytorch-grad-cam): Σ_k relu(g∘A)."""
    return (gradient * activation).relu().sum(dim=1)


def xgradcam(activation: Tensor, gradient: Tensor) -> Tensor:
    """XGrad-CAM (Fu 2020, equation 8): w_k = Σ g∘A / ΣA, 0 where ΣA = 0."""
    total = activation.sum(dim=(2, 3))
    weights = torch.where(total != 0, (gradient * activation).sum(dim=(2, 3)) / total, 0.0)
    return weighted(activation, weights)


def layercam(activation: Tensor, gradient: Tensor) -> Tensor:
    """LayerCAM (Jiang 2021, equation 6) before its ReLU: Σ_k relu(g)∘A."""
    return (gradient.relu() * activation).sum(dim=1)


def principal(values: Tensor) -> Tensor:
    """First principal component of C×h×w values over the positions, channels centred: N×C×h×w → N×h×w.

    The component's sign is arbitrary; here it correlates positively with the mean over the channels (with a zero
    correlation the largest magnitude is positive), so it depends on no linear algebra library.
    """
    n, _, height, width = values.shape
    flat = values.flatten(2).double()  # N×C×Z
    centred = flat - flat.mean(dim=2, keepdim=True)
    # The left singular vectors over positions come from the smaller of the two Grams; Z is at most a few thousand.
    gram = centred.mT @ centred if height * width <= values.shape[1] else None
    if gram is not None:
        value, vector = torch.linalg.eigh(gram)
        component = vector[..., -1] * value[..., -1:].clamp_min(0).sqrt()
    else:
        direction = torch.linalg.eigh(centred @ centred.mT).eigenvectors[..., -1]
        component = torch.einsum("nc,ncz->nz", direction, centred)
    mean = centred.mean(dim=1)
    agreement = (component * mean).sum(dim=1)
    largest = component.gather(1, component.abs().argmax(dim=1, keepdim=True))[:, 0]
    negligible = agreement.abs() <= 1e-9 * component.norm(dim=1) * mean.norm(dim=1)
    sign = torch.where(negligible, largest, agreement).sign()
    oriented: Tensor = component * torch.where(sign == 0, 1.0, sign)[:, None]
    return oriented.reshape(n, height, width).to(values.dtype)


def eigencam(activation: Tensor, _gradient: Tensor) -> Tensor:
    """Eigen-CAM (Muhammad 2020): the first principal component of A; knows no class, g is not looked at."""
    return principal(activation)


def eigengradcam(activation: Tensor, gradient: Tensor) -> Tensor:
    """EigenGradCAM (pytorch-grad-cam): the first principal component of g∘A."""
    return principal(gradient * activation)


def affine(output: Tensor, activation: Tensor, linear_nodes: frozenset[str]) -> bool:
    """Whether `output` is an affine function of the leaf `activation`: every node of the graph between is linear.

    Args:
        output: computed from `activation` under grad mode.
        activation: a leaf that requires grad.
        linear_nodes: names of autograd nodes whose operation is linear in its input.
    """
    seen, todo = set(), [output.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() not in linear_nodes and getattr(node, "variable", None) is not activation:
            return False
        todo.extend(parent for parent, _ in node.next_functions)
    return True
