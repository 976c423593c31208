"""Principal components of the wide layers over all sites, by subspace iteration on summed products.

With Z the standardised cells of a layer (`models.preparation`), block power iteration (Halko, Martinsson & Tropp
2011, SIAM Review 53:217, algorithm 4.4; over sites because Z'Z is a sum) is

    Q <- qr(sum over sites of Z_s' (Z_s Q) - a Q),        Q of m rows and a few more columns than components,

from a start that the plan fixes. The shift a, at most half the smallest eigenvalue that the basis sees, costs nothing
and parts the components from what lies below them sooner (Feng, Yu, Xie & Tang 2024, ACM Trans. Math. Softw. 50:10):
after 8 rounds the smallest cosine to the pooled subspace of four cohorts' expression is .9995, without it .994. The
last round turns the basis to the components: with sum of Q'Z_s'Z_s Q = U L U' (Rayleigh and Ritz) they are the first
columns of Q U, and L their sums of squares. No site's cells leave it, nor its own covariance of all features, and all
layers travel in one message. Loadings carry the block scaling sqrt(30 n / ||Z||^2), n the patients with the layer, so
that one penalty means the same for layers of any width.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from models.moments import n_patients_spec, patients_behind
from models.newton import packed, unpacked
from models.preparation import layer_specs, layer_z
from models.step import Arrays, Context, Floats, Turn
from schemas.cohort import Cohort
from schemas.design import LayerDesign
from schemas.plan import ArraySpec, PartSpec

N_ITERATIONS = 8
"""Smallest cosine to the pooled subspace above .996 on real layers; 4 leave .88 to .97 (statistics.md)."""
OVERSAMPLING = 10
BLOCK_VARIANCE = 30.0

# Tight enough for one word of the secure sum up to 33 sites, wide enough for sites of 100,000 patients.
_PRODUCT_BOUND = 4e6
_SQUARES_BOUND = 1e15
# A component with less than this share of a layer's sum of squares is rounding: n < r, or features that repeat.
_NO_VARIANCE = 1e-10


class Components:
    """Rounds of products for every layer with components at once, then one that orders and scales them.

    Settings:
        seed: Of the start (default 0); the same gives the same plan and the same components.
        iterations: Default 8.
        layer_floor: As in `models.moments.Moments`.

    Inputs: `{layer}_mean`, `{layer}_scale` of `moments`.

    State when done, for a layer of m features and r components:
        {layer}_loadings: (m, r), block scaling included; 0 for a component without variance.
        {layer}_variance: (r,) each component's share of the layer's sum of squares, the largest first.
        {layer}_n_patients: () patients with the layer.
    """

    def __init__(self, context: Context) -> None:
        self._layers = tuple(layer for layer in context.layers if layer.n_components)
        self._seed = int(context.settings.get("seed", 0))
        self._iterations = int(context.settings.get("iterations", N_ITERATIONS))
        self._floor = int(context.settings.get("layer_floor", 0))

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the two questions: the products with a basis, and the basis' own covariance."""
        sends: list[ArraySpec] = []
        products, rotation = [n_patients_spec()], [n_patients_spec()]
        for layer in self._layers:
            sends += [*layer_specs(layer), _basis_spec(layer)]
            products.append(_product_spec(layer))
            rotation += _rotation_specs(layer)
        return (
            PartSpec(name="products", sends=tuple(sends), releases=tuple(products), times=self._iterations),
            PartSpec(name="rotation", sends=tuple(sends), releases=tuple(rotation), times=1),
        )

    def begin(self, inputs: Arrays) -> Turn:
        """Ask at the start that the plan fixes."""
        start = {f"{layer.name}_basis": _start(layer, self._seed) for layer in self._layers}
        return self._ask({**start, **self._no_shifts()}, 0)

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's products, or the covariance in the basis."""
        answer: dict[str, Floats] = {"n_patients": np.array(float(cohort.n_patients))}
        for layer in self._layers:
            answer |= self._layer_answer(part, layer, sent, cohort)
        return answer

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return the next basis, or the components."""
        if part == "products":
            following: dict[str, Floats] = {}
            for layer in self._layers:
                following |= _next_basis(layer.name, state, total[f"{layer.name}_product"])
            return self._ask(following, int(state["round"]) + 1)
        done: dict[str, Floats] = {}
        for layer in self._layers:
            done |= self._components(layer, state, total, inputs[f"{layer.name}_scale"] > 0)
        return Turn(done, None)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Go on from the last basis, over the remaining sites."""
        return Turn({**state, **self._no_shifts()}, part)

    def _no_shifts(self) -> dict[str, Floats]:
        return {f"{layer.name}_shift": np.array(0.0) for layer in self._layers}

    def _ask(self, bases: dict[str, Floats], done: int) -> Turn:
        part = "products" if done < self._iterations else "rotation"
        return Turn({**bases, "round": np.array(float(done))}, part)

    def _layer_answer(self, part: str, layer: LayerDesign, sent: Arrays, cohort: Cohort) -> dict[str, Floats]:
        name = layer.name
        n = patients_behind(cohort, layer, self._floor)
        z = layer_z(cohort, layer, sent) if n else np.zeros((0, layer.n_features))
        in_basis = z @ sent[f"{name}_basis"]
        if part == "products":
            return {f"{name}_product": z.T @ in_basis}
        return {
            f"{name}_n_patients": np.array(float(n)),
            f"{name}_squares": np.array(np.vdot(z, z)),
            f"{name}_gram": packed(in_basis.T @ in_basis),
        }

    def _components(
        self, layer: LayerDesign, state: Arrays, total: Arrays, takes_part: NDArray[np.bool_]
    ) -> dict[str, Floats]:
        basis, r = state[f"{layer.name}_basis"], layer.n_components
        squares, n = float(total[f"{layer.name}_squares"]), float(total[f"{layer.name}_n_patients"])
        ascending, rotation = np.linalg.eigh(unpacked(total[f"{layer.name}_gram"], basis.shape[1]))
        variance = np.maximum(ascending[::-1][:r], 0.0)
        vectors = basis @ rotation[:, ::-1][:, :r]
        # Which of v and -v is chosen must not hang on rounding: the sign of the product with a fixed random vector.
        vectors = vectors * np.where(_draw(layer, self._seed)[:, 0] @ vectors < 0, -1.0, 1.0)
        real = variance > _NO_VARIANCE * squares
        scaling = sqrt(BLOCK_VARIANCE * n / squares) if squares > 0 else 0.0
        return {
            f"{layer.name}_loadings": np.where(real & takes_part[:, None], vectors * scaling, 0.0),
            f"{layer.name}_variance": np.where(real, variance / (squares or 1.0), 0.0),
            f"{layer.name}_n_patients": np.array(n),
        }


def _next_basis(name: str, state: Arrays, product: Floats) -> dict[str, Floats]:
    """Return the basis after a round, and the shift of the next."""
    shift = float(state[f"{name}_shift"])
    basis, triangle = np.linalg.qr(product - shift * state[f"{name}_basis"])
    smallest = float(np.linalg.svd(triangle, compute_uv=False)[-1])
    return {f"{name}_basis": basis, f"{name}_shift": np.array(max(shift, (shift + smallest) / 2))}


def width_of(layer: LayerDesign) -> int:
    """Return how many columns the basis of a layer has."""
    return min(layer.n_components + OVERSAMPLING, layer.n_features)


def _draw(layer: LayerDesign, seed: int) -> Floats:
    """Return (m, w) standard normal numbers that the plan fixes."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return generator.standard_normal((layer.n_features, width_of(layer)))


def _start(layer: LayerDesign, seed: int) -> Floats:
    return np.linalg.qr(_draw(layer, seed))[0]


def _basis_spec(layer: LayerDesign) -> ArraySpec:
    return ArraySpec(
        name=f"{layer.name}_basis",
        shape=(layer.n_features, width_of(layer)),
        meaning=f"directions among the {layer.name} features",
        bound=2.0,
    )


def _product_spec(layer: LayerDesign) -> ArraySpec:
    what = f"{layer.n_components} components of {layer.n_features:,} {layer.name} features"
    return ArraySpec(
        name=f"{layer.name}_product",
        shape=(layer.n_features, width_of(layer)),
        meaning=f"for {what}: sum over patients of each feature times the place along each direction",
        bound=_PRODUCT_BOUND,
    )


def _rotation_specs(layer: LayerDesign) -> list[ArraySpec]:
    name, width = layer.name, width_of(layer)
    return [
        ArraySpec(name=f"{name}_n_patients", shape=(), meaning=f"patients with layer {name}"),
        ArraySpec(
            name=f"{name}_squares",
            shape=(),
            meaning=f"sum of squares of the standardised {name} features",
            bound=_SQUARES_BOUND,
        ),
        ArraySpec(
            name=f"{name}_gram",
            shape=(width * (width + 1) // 2,),
            meaning=f"sums of products of the places along each pair of directions of {name}",
            bound=_SQUARES_BOUND,
        ),
    ]
