"""The operations that compute, a method for each.

Written by client/generate.py; changes here are lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from convscope_client import schemas
from convscope_client._sync.job import Job
from convscope_client._sync.jobs import Jobs
from convscope_client.images import ImagesInput


class Operations(Jobs):
    """Every operation, with what it takes. What is None is left to the service; `submit` says what the last
    three arguments of each mean."""

    def cam(
        self,
        image: ImagesInput | None = None,
        *,
        deadline_s: float | None = None,
        image_range: Sequence[int] | str | None = None,
        image_set: str | None = None,
        labels: Mapping[str, str] | None = None,
        layer: str | None = None,
        mask: schemas.ImageRef | None = None,
        methods: Sequence[
            Literal[
                "cam",
                "gradcam",
                "gradcam++",
                "hirescam",
                "elementwise",
                "xgradcam",
                "layercam",
                "eigencam",
                "eigengradcam",
                "scorecam",
                "ablationcam",
                "fullgrad",
                "guided-gradcam",
            ]
        ]
        | None = None,
        model: str | None = None,
        nonstandard_gate: bool | None = None,
        precision: Literal["exact", "fast"] | None = None,
        preprocess: schemas.Preprocess | None = None,
        region: Literal["all", "predicted", "mask"] | Sequence[int] | None = None,
        seed: int | None = None,
        targets: Sequence[int | str] | None = None,
        upsampled: bool | None = None,
        wait_s: float | None = None,
        fresh: bool = False,
        idempotency_key: str | None = None,
    ) -> Job[schemas.CamFacts]:
        """Class activation maps by thirteen methods for several classes from one forward pass.

        Args:
            image: One image, or several, where it is no set; as paths, ids, bytes, pictures or arrays.
            deadline_s: Seconds from submission until the job expires.
            image_range: Which images of the set: `start:stop` or [start, stop], places from 0, half open.
            image_set: Id from POST /v1/image-sets, instead of images.
            labels: Up to 16 short strings for the caller's own use; no part of the computation.
            layer: Without it the last spatial map before global pooling.
            mask: An image of the upload's size, white where the class counts.
            methods: All of them share one forward pass. Default: ["gradcam"].
            model: Catalogue id; without it the default network.
            nonstandard_gate: guided-gradcam: treat SiLU, GELU, Hardswish and their like as ReLUs; not in any paper.
                Default: false.
            precision: exact: float32; on a CPU the same bits alone, beside other requests and under any load, of
                workers with the same settings; on other devices ascents have the same bits, other operations the same
                numbers to the last digits. fast: the device's quicker arithmetic, as good, not the same bits. Default:
                "exact".
            preprocess: As its type says.
            region: Of networks that answer in maps: `all` pixels (default), those `predicted` as the class, the white
                of the `mask`, `y,x` or `top,left,bottom,right` in pixels of the network's input.
            seed: Of everything random in the computation. Default: 0.
            targets: Class indices, class names, `predicted`, `top:K` (the K most probable classes of each image), or
                `-N` (the other side of output N, where each stands by itself). Default: ["predicted"].
            upsampled: Also give each map at the size of the network's input. Default: true.
        """
        request: dict[str, Any] = {
            "deadline_s": deadline_s,
            "image_range": image_range,
            "image_set": image_set,
            "labels": labels,
            "layer": layer,
            "mask": mask,
            "methods": methods,
            "model": model,
            "nonstandard_gate": nonstandard_gate,
            "precision": precision,
            "preprocess": preprocess,
            "region": region,
            "seed": seed,
            "targets": targets,
            "upsampled": upsampled,
        }
        return self.submit("cam", image, request, wait_s=wait_s, fresh=fresh, idempotency_key=idempotency_key)

    def cka(
        self,
        image: ImagesInput | None = None,
        *,
        bandwidth: float | None = None,
        batch_images: int | None = None,
        channels: Sequence[int] | str | None = None,
        deadline_s: float | None = None,
        estimator: Literal["biased", "debiased"] | None = None,
        features: Literal["flatten", "pool"] | None = None,
        image_range: Sequence[int] | str | None = None,
        image_set: str | None = None,
        intervals: int | None = None,
        kernel: Literal["linear", "rbf"] | None = None,
        labels: Mapping[str, str] | None = None,
        layer: str | None = None,
        layers: Sequence[str] | None = None,
        mode: Literal["channels", "layers", "models"] | None = None,
        model: str | None = None,
        other_layers: Sequence[str] | None = None,
        other_model: str | None = None,
        permutations: int | None = None,
        precision: Literal["exact", "fast"] | None = None,
        preprocess: schemas.Preprocess | None = None,
        samples: Literal["rows", "positions", "images"] | None = None,
        seed: int | None = None,
        wait_s: float | None = None,
        fresh: bool = False,
        idempotency_key: str | None = None,
    ) -> Job[schemas.CkaFacts]:
        """CKA matrix of channels, layers or two networks, with the baseline it should be read against.

        Args:
            image: One image, or several, where it is no set; as paths, ids, bytes, pictures or arrays.
            bandwidth: RBF: σ as a fraction of the median distance between different samples. Default: 0.5.
            batch_images: Images whose samples are compared at once; HSICs of batches are summed.
            channels: In `channels` mode, which of the layer's channels. Default: "all".
            deadline_s: Seconds from submission until the job expires.
            estimator: biased: Kornblith 2019; debiased: U-centred Grams, unrelated features score zero. Default:
                "biased".
            features: In `layers` and `models` mode: every number of the map, or each channel's mean. Default:
                "flatten".
            image_range: Which images of the set: `start:stop` or [start, stop], places from 0, half open.
            image_set: Id from POST /v1/image-sets, instead of images.
            intervals: Resamples for the 95 % interval; 0 for none. Default: 100, `channels` none.
            kernel: Default: "linear".
            labels: Up to 16 short strings for the caller's own use; no part of the computation.
            layer: One layer; without it a middle stage.
            layers: Layers to compare, or `convolutions`; without it every stage.
            mode: Compare a layer's channels, a network's layers, or the layers of two networks. Default: "channels".
            model: Catalogue id; without it the default network.
            other_layers: Its layers, or `convolutions`; without it every stage.
            other_model: In `models` mode, the network of the columns.
            permutations: Random pairings for the spread of the baseline. Default: 20.
            precision: exact: float32; on a CPU the same bits alone, beside other requests and under any load, of
                workers with the same settings; on other devices ascents have the same bits, other operations the same
                numbers to the last digits. fast: the device's quicker arithmetic, as good, not the same bits. Default:
                "exact".
            preprocess: As its type says.
            samples: In `channels` mode, what a sample is: a row of the map (features: its columns), one position (then
                CKA is r²), or an image. Layers are always compared over images.
            seed: Of everything random in the computation. Default: 0.
        """
        request: dict[str, Any] = {
            "bandwidth": bandwidth,
            "batch_images": batch_images,
            "channels": channels,
            "deadline_s": deadline_s,
            "estimator": estimator,
            "features": features,
            "image_range": image_range,
            "image_set": image_set,
            "intervals": intervals,
            "kernel": kernel,
            "labels": labels,
            "layer": layer,
            "layers": layers,
            "mode": mode,
            "model": model,
            "other_layers": other_layers,
            "other_model": other_model,
            "permutations": permutations,
            "precision": precision,
            "preprocess": preprocess,
            "samples": samples,
            "seed": seed,
        }
        return self.submit("cka", image, request, wait_s=wait_s, fresh=fresh, idempotency_key=idempotency_key)

    def classify(
        self,
        image: ImagesInput | None = None,
        *,
        deadline_s: float | None = None,
        image_range: Sequence[int] | str | None = None,
        image_set: str | None = None,
        labels: Mapping[str, str] | None = None,
        mask: schemas.ImageRef | None = None,
        model: str | None = None,
        precision: Literal["exact", "fast"] | None = None,
        preprocess: schemas.Preprocess | None = None,
        region: Literal["all", "predicted", "mask"] | Sequence[int] | None = None,
        seed: int | None = None,
        top: int | None = None,
        truth: Literal["folders"] | Sequence[int | str] | None = None,
        wait_s: float | None = None,
        fresh: bool = False,
        idempotency_key: str | None = None,
    ) -> Job[schemas.ClassifyFacts]:
        """The strongest classes of each image, with logits and probabilities; of segmentations the class map.

        Args:
            image: One image, or several, where it is no set; as paths, ids, bytes, pictures or arrays.
            deadline_s: Seconds from submission until the job expires.
            image_range: Which images of the set: `start:stop` or [start, stop], places from 0, half open.
            image_set: Id from POST /v1/image-sets, instead of images.
            labels: Up to 16 short strings for the caller's own use; no part of the computation.
            mask: An image of the upload's size, white where the class counts.
            model: Catalogue id; without it the default network.
            precision: exact: float32; on a CPU the same bits alone, beside other requests and under any load, of
                workers with the same settings; on other devices ascents have the same bits, other operations the same
                numbers to the last digits. fast: the device's quicker arithmetic, as good, not the same bits. Default:
                "exact".
            preprocess: As its type says.
            region: Of networks that answer in maps: `all` pixels (default), those `predicted` as the class, the white
                of the `mask`, `y,x` or `top,left,bottom,right` in pixels of the network's input.
            seed: Of everything random in the computation. Default: 0.
            top: How many of the strongest classes to name for each image. Default: 5.
            truth: As its type says.
        """
        request: dict[str, Any] = {
            "deadline_s": deadline_s,
            "image_range": image_range,
            "image_set": image_set,
            "labels": labels,
            "mask": mask,
            "model": model,
            "precision": precision,
            "preprocess": preprocess,
            "region": region,
            "seed": seed,
            "top": top,
            "truth": truth,
        }
        return self.submit("classify", image, request, wait_s=wait_s, fresh=fresh, idempotency_key=idempotency_key)

    def compare(
        self,
        image: ImagesInput | None = None,
        *,
        batch_images: int | None = None,
        cam_layer: str | None = None,
        channel_layers: Sequence[str] | None = None,
        deadline_s: float | None = None,
        features: Literal["flatten", "pool"] | None = None,
        image_range: Sequence[int] | str | None = None,
        image_set: str | None = None,
        intervals: int | None = None,
        labels: Mapping[str, str] | None = None,
        layers: Sequence[str] | None = None,
        method: Literal[
            "cam",
            "gradcam",
            "gradcam++",
            "hirescam",
            "elementwise",
            "xgradcam",
            "layercam",
            "eigencam",
            "eigengradcam",
            "scorecam",
            "ablationcam",
            "fullgrad",
        ]
        | None = None,
        model: str | None = None,
        other_cam_layer: str | None = None,
        other_layers: Sequence[str] | None = None,
        other_model: str | None = None,
        precision: Literal["exact", "fast"] | None = None,
        preprocess: schemas.Preprocess | None = None,
        seed: int | None = None,
        shown: int | None = None,
        target: int | str | None = None,
        truth: Literal["folders"] | Sequence[int | str] | None = None,
        wait_s: float | None = None,
        fresh: bool = False,
        idempotency_key: str | None = None,
    ) -> Job[schemas.CompareFacts]:
        """What differs between two networks on the same images: predictions, representations, evidence, channels.

        Args:
            image: One image, or several, where it is no set; as paths, ids, bytes, pictures or arrays.
            batch_images: CKA: images compared at once, at most. Default: 16.
            cam_layer: Without it the last spatial map before global pooling.
            channel_layers: Layers of both whose channels are watched; without it all rectifications they share.
            deadline_s: Seconds from submission until the job expires.
            features: CKA: every number of the map, or each channel's mean. Default: "flatten".
            image_range: Which images of the set: `start:stop` or [start, stop], places from 0, half open.
            image_set: Id from POST /v1/image-sets, instead of images.
            intervals: CKA: resamples for the 95 % interval; 0 for none. Default: 200.
            labels: Up to 16 short strings for the caller's own use; no part of the computation.
            layers: Layers whose representations are compared, or `convolutions`; without it every stage.
            method: Whose maps are compared, a method of `cam`; without it gradcam.
            model: Catalogue id; without it the default network.
            other_cam_layer: The other network's; likewise.
            other_layers: The other network's, in the same order; without it those of the same names, or its stages.
            other_model: Catalogue id of the network that `model` is compared with.
            precision: exact: float32; on a CPU the same bits alone, beside other requests and under any load, of
                workers with the same settings; on other devices ascents have the same bits, other operations the same
                numbers to the last digits. fast: the device's quicker arithmetic, as good, not the same bits. Default:
                "exact".
            preprocess: As its type says.
            seed: Of everything random in the computation. Default: 0.
            shown: How many images whose evidence moved most are shown, and how many flips. Default: 10.
            target: Whose evidence: a class index, a class name, or what `model` predicts of each image. Default:
                "predicted".
            truth: As its type says.
        """
        request: dict[str, Any] = {
            "batch_images": batch_images,
            "cam_layer": cam_layer,
            "channel_layers": channel_layers,
            "deadline_s": deadline_s,
            "features": features,
            "image_range": image_range,
            "image_set": image_set,
            "intervals": intervals,
            "labels": labels,
            "layers": layers,
            "method": method,
            "model": model,
            "other_cam_layer": other_cam_layer,
            "other_layers": other_layers,
            "other_model": other_model,
            "precision": precision,
            "preprocess": preprocess,
            "seed": seed,
            "shown": shown,
            "target": target,
            "truth": truth,
        }
        return self.submit("compare", image, request, wait_s=wait_s, fresh=fresh, idempotency_key=idempotency_key)

    def deconv(
        self,
        image: ImagesInput | None = None,
        *,
        by: Literal["max", "mean"] | None = None,
        channels: Sequence[int] | str | None = None,
        deadline_s: float | None = None,
        image_range: Sequence[int] | str | None = None,
        image_set: str | None = None,
        labels: Mapping[str, str] | None = None,
        layer: str | None = None,
        layers: Sequence[str] | None = None,
        model: str | None = None,
        nonstandard_gate: bool | None = None,
        precision: Literal["exact", "fast"] | None = None,
        preprocess: schemas.Preprocess | None = None,
        rule: Literal["deconvnet", "guided", "gradient"] | None = None,
        seed: int | None = None,
        seed_unit: str | None = None,
        switches: Literal["sum", "last"] | None = None,
        wait_s: float | None = None,
        fresh: bool = False,
        idempotency_key: str | None = None,
    ) -> Job[schemas.DeconvFacts]:
        """Projections of chosen units back to pixels by deconvnet, guided backpropagation or gradient.

        Args:
            image: One image, or several, where it is no set; as paths, ids, bytes, pictures or arrays.
            by: What `top:K` and `strongest` rank by. Default: "max".
            channels: Which channels to project. Default: "strongest".
            deadline_s: Seconds from submission until the job expires.
            image_range: Which images of the set: `start:stop` or [start, stop], places from 0, half open.
            image_set: Id from POST /v1/image-sets, instead of images.
            labels: Up to 16 short strings for the caller's own use; no part of the computation.
            layer: One layer; without it the deepest stage whose units see half of the input or less.
            layers: Several layers, in one forward pass, or `convolutions`.
            model: Catalogue id; without it the default network.
            nonstandard_gate: Treat SiLU, GELU, Hardswish and their like as ReLUs on the way back; not in any paper.
                Default: false.
            precision: exact: float32; on a CPU the same bits alone, beside other requests and under any load, of
                workers with the same settings; on other devices ascents have the same bits, other operations the same
                numbers to the last digits. fast: the device's quicker arithmetic, as good, not the same bits. Default:
                "exact".
            preprocess: As its type says.
            rule: At rectifications. Default: deconvnet, and guided for networks without max-pools.
            seed: Of everything random in the computation. Default: 0.
            seed_unit: max: a channel's strongest unit; channel: its whole map; layer: all maps of the layer together;
                top:n: a channel's n strongest units, one by one. Default: "max".
            switches: A pixel that is the switch of several pooling windows gets their sum, or the last's signal.
                Default: "sum".
        """
        request: dict[str, Any] = {
            "by": by,
            "channels": channels,
            "deadline_s": deadline_s,
            "image_range": image_range,
            "image_set": image_set,
            "labels": labels,
            "layer": layer,
            "layers": layers,
            "model": model,
            "nonstandard_gate": nonstandard_gate,
            "precision": precision,
            "preprocess": preprocess,
            "rule": rule,
            "seed": seed,
            "seed_unit": seed_unit,
            "switches": switches,
        }
        return self.submit("deconv", image, request, wait_s=wait_s, fresh=fresh, idempotency_key=idempotency_key)

    def evaluate(
        self,
        image: ImagesInput | None = None,
        *,
        boxes: Sequence[Sequence[float]] | None = None,
        deadline_s: float | None = None,
        deletion_fill: Literal["black", "mean", "blur"] | None = None,
        depths: int | None = None,
        image_range: Sequence[int] | str | None = None,
        image_set: str | None = None,
        insertion_fill: Literal["black", "mean", "blur"] | None = None,
        labels: Mapping[str, str] | None = None,
        layer: str | None = None,
        mask: schemas.ImageRef | None = None,
        methods: Sequence[
            Literal[
                "gradient",
                "gradient-x-input",
                "guided",
                "smoothgrad",
                "vargrad",
                "integrated-gradients",
                "cam",
                "gradcam",
                "gradcam++",
                "hirescam",
                "elementwise",
                "xgradcam",
                "layercam",
                "eigencam",
                "eigengradcam",
                "scorecam",
                "ablationcam",
                "fullgrad",
                "guided-gradcam",
            ]
        ]
        | None = None,
        metrics: Sequence[
            Literal[
                "deletion",
                "insertion",
                "confidence",
                "road",
                "infidelity",
                "sensitivity",
                "localisation",
                "randomisation",
            ]
        ]
        | None = None,
        model: str | None = None,
        nonstandard_gate: bool | None = None,
        precision: Literal["exact", "fast"] | None = None,
        preprocess: schemas.Preprocess | None = None,
        radius: float | None = None,
        samples: int | None = None,
        seed: int | None = None,
        steps: int | None = None,
        target: int | str | None = None,
        wait_s: float | None = None,
        fresh: bool = False,
        idempotency_key: str | None = None,
    ) -> Job[schemas.EvaluateFacts]:
        """How faithful, stable and specific saliency and CAM maps are on these images, beside random maps.

        Args:
            image: One image, or several, where it is no set; as paths, ids, bytes, pictures or arrays.
            boxes: Where the target is, a box an image: [top, left, bottom, right] in pixels of the upload.
            deadline_s: Seconds from submission until the job expires.
            deletion_fill: What deleted pixels become. Default: "mean".
            depths: randomisation: how many layers, evenly from the last to the first. Default: 4.
            image_range: Which images of the set: `start:stop` or [start, stop], places from 0, half open.
            image_set: Id from POST /v1/image-sets, instead of images.
            insertion_fill: What pixels are inserted into. Default: "blur".
            labels: Up to 16 short strings for the caller's own use; no part of the computation.
            layer: Of the CAMs; without it the last map before global pooling.
            mask: Where the target is in the one image: an image of its size, white on the target.
            methods: Of `saliency` and of `cam`, by their names there. Default: ["gradcam"].
            metrics: Default: deletion, insertion, confidence and road, and localisation where boxes or a mask come.
            model: Catalogue id; without it the default network.
            nonstandard_gate: guided, guided-gradcam: as in their operations. Default: false.
            precision: exact: float32; on a CPU the same bits alone, beside other requests and under any load, of
                workers with the same settings; on other devices ascents have the same bits, other operations the same
                numbers to the last digits. fast: the device's quicker arithmetic, as good, not the same bits. Default:
                "exact".
            preprocess: As its type says.
            radius: sensitivity: largest change of a normalised input value. Default: 0.02.
            samples: infidelity: hidden squares; sensitivity: images with a little noise. Default: 10.
            seed: Of everything random in the computation. Default: 0.
            steps: deletion, insertion: equal parts that the pixels go in. Default: 20.
            target: A class index, a class name, `predicted` (of each image), or `-N`. Default: "predicted".
        """
        request: dict[str, Any] = {
            "boxes": boxes,
            "deadline_s": deadline_s,
            "deletion_fill": deletion_fill,
            "depths": depths,
            "image_range": image_range,
            "image_set": image_set,
            "insertion_fill": insertion_fill,
            "labels": labels,
            "layer": layer,
            "mask": mask,
            "methods": methods,
            "metrics": metrics,
            "model": model,
            "nonstandard_gate": nonstandard_gate,
            "precision": precision,
            "preprocess": preprocess,
            "radius": radius,
            "samples": samples,
            "seed": seed,
            "steps": steps,
            "target": target,
        }
        return self.submit("evaluate", image, request, wait_s=wait_s, fresh=fresh, idempotency_key=idempotency_key)

    def feature_maps(
        self,
        image: ImagesInput | None = None,
        *,
        by: str | None = None,
        channels: Sequence[int] | str | None = None,
        deadline_s: float | None = None,
        image_range: Sequence[int] | str | None = None,
        image_set: str | None = None,
        labels: Mapping[str, str] | None = None,
        layer: str | None = None,
        layers: Sequence[str] | None = None,
        model: str | None = None,
        precision: Literal["exact", "fast"] | None = None,
        preprocess: schemas.Preprocess | None = None,
        seed: int | None = None,
        wait_s: float | None = None,
        fresh: bool = False,
        idempotency_key: str | None = None,
    ) -> Job[schemas.FeatureMapsFacts]:
        """Feature maps of chosen channels of chosen layers, with statistics.

        Args:
            image: One image, or several, where it is no set; as paths, ids, bytes, pictures or arrays.
            by: What `top:K` ranks by. Default: "mean".
            channels: Which maps; without it the first 64.
            deadline_s: Seconds from submission until the job expires.
            image_range: Which images of the set: `start:stop` or [start, stop], places from 0, half open.
            image_set: Id from POST /v1/image-sets, instead of images.
            labels: Up to 16 short strings for the caller's own use; no part of the computation.
            layer: One layer; without it the first convolution.
            layers: Several layers, or the one word `convolutions`.
            model: Catalogue id; without it the default network.
            precision: exact: float32; on a CPU the same bits alone, beside other requests and under any load, of
                workers with the same settings; on other devices ascents have the same bits, other operations the same
                numbers to the last digits. fast: the device's quicker arithmetic, as good, not the same bits. Default:
                "exact".
            preprocess: As its type says.
            seed: Of everything random in the computation. Default: 0.
        """
        request: dict[str, Any] = {
            "by": by,
            "channels": channels,
            "deadline_s": deadline_s,
            "image_range": image_range,
            "image_set": image_set,
            "labels": labels,
            "layer": layer,
            "layers": layers,
            "model": model,
            "precision": precision,
            "preprocess": preprocess,
            "seed": seed,
        }
        return self.submit("feature-maps", image, request, wait_s=wait_s, fresh=fresh, idempotency_key=idempotency_key)

    def kernels(
        self,
        *,
        deadline_s: float | None = None,
        filters: Sequence[int] | str | None = None,
        inputs: Sequence[int] | str | None = None,
        labels: Mapping[str, str] | None = None,
        layer: str | None = None,
        model: str | None = None,
        precision: Literal["exact", "fast"] | None = None,
        preprocess: schemas.Preprocess | None = None,
        seed: int | None = None,
        wait_s: float | None = None,
        fresh: bool = False,
        idempotency_key: str | None = None,
    ) -> Job[schemas.KernelsFacts]:
        """The kernels of a convolution, as filters in colour or as one map for each pair of output and input.

        Args:
            deadline_s: Seconds from submission until the job expires.
            filters: Which filters (output channels); `top:K` are those with the largest norm. Default: "first:64".
            inputs: Which input channels of each filter; `top:K` are those with the largest norm in the layer. Default:
                "all".
            labels: Up to 16 short strings for the caller's own use; no part of the computation.
            layer: A convolution; without it the first one.
            model: Catalogue id; without it the default network.
            precision: exact: float32; on a CPU the same bits alone, beside other requests and under any load, of
                workers with the same settings; on other devices ascents have the same bits, other operations the same
                numbers to the last digits. fast: the device's quicker arithmetic, as good, not the same bits. Default:
                "exact".
            preprocess: As its type says.
            seed: Of everything random in the computation. Default: 0.
        """
        request: dict[str, Any] = {
            "deadline_s": deadline_s,
            "filters": filters,
            "inputs": inputs,
            "labels": labels,
            "layer": layer,
            "model": model,
            "precision": precision,
            "preprocess": preprocess,
            "seed": seed,
        }
        return self.submit("kernels", None, request, wait_s=wait_s, fresh=fresh, idempotency_key=idempotency_key)

    def maximize(
        self,
        image: ImagesInput | None = None,
        *,
        average: float | None = None,
        beta1: float | None = None,
        beta2: float | None = None,
        blur: float | None = None,
        blur_every: int | None = None,
        channels: Sequence[int] | str | None = None,
        clip_each_step: bool | None = None,
        crop_center_sd: float | None = None,
        crop_from: float | None = None,
        crop_size_sd: float | None = None,
        crop_to: float | None = None,
        crops: int | None = None,
        deadline_s: float | None = None,
        decay: float | None = None,
        decay_power: float | None = None,
        decorrelate: bool | None = None,
        display: Literal["clip", "flashtorch"] | None = None,
        diversity: float | None = None,
        epsilon: float | None = None,
        float_pictures: bool | None = None,
        image_range: Sequence[int] | str | None = None,
        image_set: str | None = None,
        jitter: int | None = None,
        jitter_after: int | None = None,
        l2: float | None = None,
        labels: Mapping[str, str] | None = None,
        layer: str | None = None,
        learning_rate: float | None = None,
        mask: schemas.ImageRef | None = None,
        model: str | None = None,
        noise: float | None = None,
        noise_uniform: float | None = None,
        objective: schemas.SumObjective
        | schemas.ClassObjective
        | schemas.UnitObjective
        | schemas.DirectionObjective
        | schemas.ChannelObjective
        | schemas.LayerObjective
        | Sequence[
            schemas.SumObjective
            | schemas.ClassObjective
            | schemas.UnitObjective
            | schemas.DirectionObjective
            | schemas.ChannelObjective
            | schemas.LayerObjective
        ]
        | None = None,
        optimizer: Literal["adam", "keras-adam", "nadam", "ascent", "rms"] | None = None,
        parameterization: Literal["pixel", "fourier", "maco"] | None = None,
        pixel_space: Literal["byte", "unit", "normalized"] | None = None,
        precision: Literal["exact", "fast"] | None = None,
        preprocess: schemas.Preprocess | None = None,
        preset: Literal["pixel", "flashtorch", "yosinski", "lucid", "smooth", "maco"] | None = None,
        redirect_steps: int | None = None,
        rotate: int | None = None,
        scale: float | None = None,
        seed: int | None = None,
        size: int | Sequence[int] | None = None,
        start: Literal["noise", "image"] | None = None,
        start_distribution: Literal["uniform", "normal"] | None = None,
        start_level: float | None = None,
        start_spread: float | None = None,
        steps: int | None = None,
        stop_after_update: bool | None = None,
        stop_at: float | None = None,
        tv: float | None = None,
        wait_s: float | None = None,
        fresh: bool = False,
        idempotency_key: str | None = None,
    ) -> Job[schemas.MaximizeFacts]:
        """Pictures that maximize a channel, unit, layer, direction or class, by gradient ascent.

        Args:
            image: One image, or several, where it is no set; as paths, ids, bytes, pictures or arrays.
            average: Share of the steps, the last ones, whose mean is the picture; 0: the last step.
            beta1: adam, keras-adam, nadam: of the first moment.
            beta2: adam, keras-adam, nadam: of the second moment.
            blur: pixel: sigma of a blur every `blur_every` steps.
            blur_every: As its type says.
            channels: Channels of `layer`; without it the first four. `top:K` ranks on the start image.
            clip_each_step: pixel: clip after every step, not only at the end.
            crop_center_sd: Spread of the centres of views.
            crop_from: Side of a view at the first step, in pictures.
            crop_size_sd: Spread of the sides of views.
            crop_to: Side of a view at the last step, in pictures.
            crops: Views of the picture in every step.
            deadline_s: Seconds from submission until the job expires.
            decay: Share of the parameters lost in every step.
            decay_power: fourier: coefficients are scaled by 1/f^this.
            decorrelate: fourier: decorrelate colours.
            display: How a picture becomes 8 bits. clip: what leaves the range is cut off; flashtorch: standardised over
                all planes, with FlashTorch's saturation (0.15) and brightness (0.7).
            diversity: Weight by which the job's pictures of one layer are pushed apart.
            epsilon: adam, keras-adam, nadam, rms: beside the root.
            float_pictures: Whether the arrays hold the pictures also as they were made: float, nothing cut off.
            image_range: Which images of the set: `start:stop` or [start, stop], places from 0, half open.
            image_set: Id from POST /v1/image-sets, instead of images.
            jitter: Pixels of the first random crop.
            jitter_after: Pixels of the last random crop.
            l2: Weight of the squared distance from grey.
            labels: Up to 16 short strings for the caller's own use; no part of the computation.
            layer: Short for one channel objective for each of `channels`.
            learning_rate: As its type says.
            mask: Of networks that answer in maps: white where a class counts, stretched to the pictures.
            model: Catalogue id; without it the default network.
            noise: Normal noise on every view, pixels in [0, 1].
            noise_uniform: Uniform noise ± this on every view.
            objective: An objective, or a list of them that makes one picture each.
            optimizer: keras-adam: Adam as Keras computes it, whose epsilon stands beside the uncorrected root.
            parameterization: As its type says.
            pixel_space: pixel: what a parameter of 1 is: a 255th, white, or a standard deviation of the input.
            precision: exact: float32; on a CPU the same bits alone, beside other requests and under any load, of
                workers with the same settings; on other devices ascents have the same bits, other operations the same
                numbers to the last digits. fast: the device's quicker arithmetic, as good, not the same bits. Default:
                "exact".
            preprocess: As its type says.
            preset: Default: "smooth".
            redirect_steps: First steps in which a row without any gradient gets a redirected one.
            rotate: Random rotation ± this many degrees.
            scale: Random scale 1 ± this, in eleven steps.
            seed: Of everything random in the computation. Default: 0.
            size: Side, or height and width, of the picture; without it the network's own input size.
            start: Default: the image, if `image` is given.
            start_distribution: pixel: of the noise.
            start_level: pixel: of the noise; null: the mean colour.
            start_spread: Width of the noise, in the preset's own unit.
            steps: As its type says.
            stop_after_update: stop_at: the picture is the one after the step that found the value, not before it.
                Default: false.
            stop_at: A picture is finished when its objective reaches this value.
            tv: Weight of the total variation.
        """
        request: dict[str, Any] = {
            "average": average,
            "beta1": beta1,
            "beta2": beta2,
            "blur": blur,
            "blur_every": blur_every,
            "channels": channels,
            "clip_each_step": clip_each_step,
            "crop_center_sd": crop_center_sd,
            "crop_from": crop_from,
            "crop_size_sd": crop_size_sd,
            "crop_to": crop_to,
            "crops": crops,
            "deadline_s": deadline_s,
            "decay": decay,
            "decay_power": decay_power,
            "decorrelate": decorrelate,
            "display": display,
            "diversity": diversity,
            "epsilon": epsilon,
            "float_pictures": float_pictures,
            "image_range": image_range,
            "image_set": image_set,
            "jitter": jitter,
            "jitter_after": jitter_after,
            "l2": l2,
            "labels": labels,
            "layer": layer,
            "learning_rate": learning_rate,
            "mask": mask,
            "model": model,
            "noise": noise,
            "noise_uniform": noise_uniform,
            "objective": objective,
            "optimizer": optimizer,
            "parameterization": parameterization,
            "pixel_space": pixel_space,
            "precision": precision,
            "preprocess": preprocess,
            "preset": preset,
            "redirect_steps": redirect_steps,
            "rotate": rotate,
            "scale": scale,
            "seed": seed,
            "size": size,
            "start": start,
            "start_distribution": start_distribution,
            "start_level": start_level,
            "start_spread": start_spread,
            "steps": steps,
            "stop_after_update": stop_after_update,
            "stop_at": stop_at,
            "tv": tv,
        }
        return self.submit("maximize", image, request, wait_s=wait_s, fresh=fresh, idempotency_key=idempotency_key)

    def occlusion(
        self,
        image: ImagesInput | None = None,
        *,
        deadline_s: float | None = None,
        fill: Literal["mean", "black", "grey", "white"] | Sequence[float] | None = None,
        image_range: Sequence[int] | str | None = None,
        image_set: str | None = None,
        incremental: bool | None = None,
        labels: Mapping[str, str] | None = None,
        mask: schemas.ImageRef | None = None,
        model: str | None = None,
        precision: Literal["exact", "fast"] | None = None,
        preprocess: schemas.Preprocess | None = None,
        region: Literal["all", "predicted", "mask"] | Sequence[int] | None = None,
        seed: int | None = None,
        stride: Sequence[int] | None = None,
        target: int | schemas.UnitTarget | str | None = None,
        unit: schemas.WatchedUnit | None = None,
        window: Sequence[int] | None = None,
        wait_s: float | None = None,
        fresh: bool = False,
        idempotency_key: str | None = None,
    ) -> Job[schemas.OcclusionFacts]:
        """Class probability, activation of a map and top class while a square hides one part after another.

        Args:
            image: One image, or several, where it is no set; as paths, ids, bytes, pictures or arrays.
            deadline_s: Seconds from submission until the job expires.
            fill: Colour of the square: the data set's mean, a name, or r, g, b of 0 to 255. Default: "mean".
            image_range: Which images of the set: `start:stop` or [start, stop], places from 0, half open.
            image_set: Id from POST /v1/image-sets, instead of images.
            incremental: Recompute only what the square touches, where the network allows it. Default: true.
            labels: Up to 16 short strings for the caller's own use; no part of the computation.
            mask: An image of the upload's size, white where the class counts.
            model: Catalogue id; without it the default network.
            precision: exact: float32; on a CPU the same bits alone, beside other requests and under any load, of
                workers with the same settings; on other devices ascents have the same bits, other operations the same
                numbers to the last digits. fast: the device's quicker arithmetic, as good, not the same bits. Default:
                "exact".
            preprocess: As its type says.
            region: Of networks that answer in maps: `all` pixels (default), those `predicted` as the class, the white
                of the `mask`, `y,x` or `top,left,bottom,right` in pixels of the network's input.
            seed: Of everything random in the computation. Default: 0.
            stride: Step between places, pixels; default a sixteenth of the input.
            target: Class whose probability (or value) is mapped; a unit here is watched instead. Default: "predicted".
            unit: As its type says.
            window: Side of the square, pixels; default a quarter of the input.
        """
        request: dict[str, Any] = {
            "deadline_s": deadline_s,
            "fill": fill,
            "image_range": image_range,
            "image_set": image_set,
            "incremental": incremental,
            "labels": labels,
            "mask": mask,
            "model": model,
            "precision": precision,
            "preprocess": preprocess,
            "region": region,
            "seed": seed,
            "stride": stride,
            "target": target,
            "unit": unit,
            "window": window,
        }
        return self.submit("occlusion", image, request, wait_s=wait_s, fresh=fresh, idempotency_key=idempotency_key)

    def saliency(
        self,
        image: ImagesInput | None = None,
        *,
        baseline: Literal["black", "mean", "blur"] | None = None,
        deadline_s: float | None = None,
        image_range: Sequence[int] | str | None = None,
        image_set: str | None = None,
        labels: Mapping[str, str] | None = None,
        mask: schemas.ImageRef | None = None,
        max_steps: int | None = None,
        method: Literal["gradient", "gradient-x-input", "guided", "smoothgrad", "vargrad", "integrated-gradients"]
        | None = None,
        model: str | None = None,
        noise: float | None = None,
        nonstandard_gate: bool | None = None,
        precision: Literal["exact", "fast"] | None = None,
        preprocess: schemas.Preprocess | None = None,
        region: Literal["all", "predicted", "mask"] | Sequence[int] | None = None,
        samples: int | None = None,
        seed: int | None = None,
        steps: int | None = None,
        target: int | schemas.UnitTarget | str | None = None,
        tolerance: float | None = None,
        wait_s: float | None = None,
        fresh: bool = False,
        idempotency_key: str | None = None,
    ) -> Job[schemas.SaliencyFacts]:
        """Signed contribution of each input value to a class or a unit, in six gradient methods.

        Args:
            image: One image, or several, where it is no set; as paths, ids, bytes, pictures or arrays.
            baseline: integrated-gradients: black, the data set's mean colour, or the image blurred. Default: "black".
            deadline_s: Seconds from submission until the job expires.
            image_range: Which images of the set: `start:stop` or [start, stop], places from 0, half open.
            image_set: Id from POST /v1/image-sets, instead of images.
            labels: Up to 16 short strings for the caller's own use; no part of the computation.
            mask: An image of the upload's size, white where the class counts.
            max_steps: integrated-gradients: points of the last try. Default: 400.
            method: Default: "gradient".
            model: Catalogue id; without it the default network.
            noise: smoothgrad, vargrad: standard deviation over (max − min). Default: 0.1.
            nonstandard_gate: guided: treat SiLU, GELU and their like as ReLUs. Default: false.
            precision: exact: float32; on a CPU the same bits alone, beside other requests and under any load, of
                workers with the same settings; on other devices ascents have the same bits, other operations the same
                numbers to the last digits. fast: the device's quicker arithmetic, as good, not the same bits. Default:
                "exact".
            preprocess: As its type says.
            region: Of networks that answer in maps: `all` pixels (default), those `predicted` as the class, the white
                of the `mask`, `y,x` or `top,left,bottom,right` in pixels of the network's input.
            samples: smoothgrad, vargrad: noisy copies of the image. Default: 32.
            seed: Of everything random in the computation. Default: 0.
            steps: integrated-gradients: Gauss–Legendre points of the first try. Default: 50.
            target: A class index, a class name, `predicted`, `-N` (the other side of output N, where each stands by
                itself), or a unit {layer, channel, y, x}. Default: "predicted".
            tolerance: integrated-gradients: completeness gap above which more steps are taken. Default: 0.01.
        """
        request: dict[str, Any] = {
            "baseline": baseline,
            "deadline_s": deadline_s,
            "image_range": image_range,
            "image_set": image_set,
            "labels": labels,
            "mask": mask,
            "max_steps": max_steps,
            "method": method,
            "model": model,
            "noise": noise,
            "nonstandard_gate": nonstandard_gate,
            "precision": precision,
            "preprocess": preprocess,
            "region": region,
            "samples": samples,
            "seed": seed,
            "steps": steps,
            "target": target,
            "tolerance": tolerance,
        }
        return self.submit("saliency", image, request, wait_s=wait_s, fresh=fresh, idempotency_key=idempotency_key)

    def top_activations(
        self,
        image: ImagesInput | None = None,
        *,
        by: Literal["max", "mean"] | None = None,
        channels: Sequence[int] | str | None = None,
        deadline_s: float | None = None,
        groups: Sequence[str] | None = None,
        image_range: Sequence[int] | str | None = None,
        image_set: str | None = None,
        k: int | None = None,
        labels: Mapping[str, str] | None = None,
        layer: str | None = None,
        layers: Sequence[str] | None = None,
        model: str | None = None,
        patches: bool | None = None,
        per_image: int | None = None,
        precision: Literal["exact", "fast"] | None = None,
        preprocess: schemas.Preprocess | None = None,
        projection: Literal["deconvnet", "guided", "none"] | None = None,
        seed: int | None = None,
        wait_s: float | None = None,
        fresh: bool = False,
        idempotency_key: str | None = None,
    ) -> Job[schemas.TopActivationsFacts]:
        """The images of a set that excite each channel most, cut to what the unit sees, with its projection.

        Args:
            image: One image, or several, where it is no set; as paths, ids, bytes, pictures or arrays.
            by: max: single units; mean: whole maps, which then count once an image. Default: "max".
            channels: Indices, `all` or `first:K`. Default: "first:16".
            deadline_s: Seconds from submission until the job expires.
            groups: A name for each image, in the images' order; the one word `folders`: that of the folder in which
                each image of the set lies. Then each channel tells which groups excite it most.
            image_range: Which images of the set: `start:stop` or [start, stop], places from 0, half open.
            image_set: Id from POST /v1/image-sets, instead of images.
            k: How many of a channel's strongest units are kept. Default: 9.
            labels: Up to 16 short strings for the caller's own use; no part of the computation.
            layer: One layer; without it the last map before global pooling.
            layers: Several layers, in one sweep, or the one word `convolutions`.
            model: Catalogue id; without it the default network.
            patches: Cut out of the images what the units see. Default: true.
            per_image: Units of one image at most, for each channel. Default: 1.
            precision: exact: float32; on a CPU the same bits alone, beside other requests and under any load, of
                workers with the same settings; on other devices ascents have the same bits, other operations the same
                numbers to the last digits. fast: the device's quicker arithmetic, as good, not the same bits. Default:
                "exact".
            preprocess: As its type says.
            projection: What stands beside each patch. Default: deconvnet, guided for networks without max-pools, none
                where neither rule is defined or no patches are wanted.
            seed: Of everything random in the computation. Default: 0.
        """
        request: dict[str, Any] = {
            "by": by,
            "channels": channels,
            "deadline_s": deadline_s,
            "groups": groups,
            "image_range": image_range,
            "image_set": image_set,
            "k": k,
            "labels": labels,
            "layer": layer,
            "layers": layers,
            "model": model,
            "patches": patches,
            "per_image": per_image,
            "precision": precision,
            "preprocess": preprocess,
            "projection": projection,
            "seed": seed,
        }
        return self.submit(
            "top-activations", image, request, wait_s=wait_s, fresh=fresh, idempotency_key=idempotency_key
        )
