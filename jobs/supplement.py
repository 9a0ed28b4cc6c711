"""What introspection cannot see: choices, bounds, sizes that follow from the data, and what a spec may not use and why.

The only hand-kept part of the catalog. Bounds are what torch's own constructors enforce, or what keeps a stranger's spec
harmless. A key is an argument's name for every class, or `Class.argument` for one, which then wins.
"""

from __future__ import annotations

from typing import Any

# Arguments that a spec never gives: postgrad decides them, or they are deprecated.
REFUSED_ARGUMENTS = {
    "device": "the job's own `device` field decides where everything lives",
    "dtype": "modules are float32 (precision 32-true)",
    "size_average": "deprecated in torch; use `reduction`",
    "reduce": "deprecated in torch; use `reduction`",
    "foreach": "torch chooses it, and it changes no result",
    "fused": "fused arithmetic changes the bits of the textbook loop",
    "capturable": "it is for CUDA graphs, which postgrad decides on",
    "differentiable": "no training job differentiates through its own step",
    "return_indices": "in a Graph another node's input may be `<node>.indices`, and it follows from that",
    "last_epoch": "resuming is the service's own work",
    "scale_fn": "it is a Python function, which a spec cannot carry",
    "scale_mode": "torch takes it with a scale_fn only, and each mode has its own",
    "keep_sequence_dim": "it gives a number for each place in a dimension of the data; a series is one of a class or column",
    "t_test": "it gives a p-value beside the figure itself",
    "process_group": "the service decides on devices",
    "_weight": "weights are drawn from the seed",
    "_freeze": "weights are drawn from the seed",
    "_random_samples": "random numbers are drawn from the seed",
    "distance_function": "it is a Python function, which a spec cannot carry; TripletMarginLoss has the p-norm",
    "options": "it only chunks the same computation",
    "include_last_offset": "rows of one length need no offsets",
    "mask_check": "torch's own look at a padding mask stays on",
    "custom_encoder": "make encoder and decoder nodes of a Graph",
    "custom_decoder": "make encoder and decoder nodes of a Graph",
    "generator": "random numbers are drawn from the seed",
}

# Positional arguments that the service itself supplies.
SUPPLIED_ARGUMENTS = frozenset({"params", "optimizer", "tensor"})

# Constructors that take `*args, **kwargs`: whose signature tells the truth, and what of it is not theirs.
SIGNATURES = {"RNN": "RNNBase", "LSTM": "RNNBase", "GRU": "RNNBase"}
NOT_THEIRS = frozenset({"RNN.mode", "LSTM.mode", "GRU.mode", "RNN.proj_size", "GRU.proj_size"})

_OUTPUT: dict[str, Any] = {"name": "output", "forms": ["string"], "default": "all", "choices": ["all", "last"], "of_call": True}
_POOLED: dict[str, Any] = {**_OUTPUT, "choices": ["all", "mean"]}
_MASK: dict[str, Any] = {"name": "mask", "forms": ["null", "string"], "default": None, "choices": ["causal"], "of_call": True}

# Padding masks by torch's names, which the `inputs` of a Graph's node may name. In a Sequential, whose layers have no `inputs`,
# a layer of one input says "lengths" under that name.
MASKS: dict[str, tuple[str, ...]] = {
    "MultiheadAttention": ("key_padding_mask",),
    **dict.fromkeys(("TransformerEncoder", "TransformerEncoderLayer"), ("src_key_padding_mask",)),
    **dict.fromkeys(("TransformerDecoder", "TransformerDecoderLayer"), ("tgt_key_padding_mask", "memory_key_padding_mask")),
    "Transformer": ("src_key_padding_mask", "tgt_key_padding_mask", "memory_key_padding_mask"),
}


def _of_lengths(mask: str) -> dict[str, Any]:
    return {**_MASK, "name": mask, "choices": ["lengths"]}


# Arguments beside those of the signature. One that is `of_call` goes to no constructor: it says how the layer is called.
MORE_ARGUMENTS: dict[str, tuple[dict[str, Any], ...]] = {
    "RNN": ({"name": "nonlinearity", "forms": ["string"], "default": "tanh", "choices": ["tanh", "relu"]}, _OUTPUT),
    **dict.fromkeys(("LSTM", "GRU"), (_OUTPUT,)),
    **dict.fromkeys(("Transformer", "TransformerDecoder", "TransformerDecoderLayer"), (_MASK,)),
    **dict.fromkeys(
        ("TransformerEncoder", "TransformerEncoderLayer"), (_MASK, _of_lengths("src_key_padding_mask"), _POOLED)
    ),
    "MultiheadAttention": (_MASK, _of_lengths("key_padding_mask")),
    "Sequential": ({"name": "layers", "forms": ["layers"], "required": True},),
}  # fmt: skip

# How many inputs a layer is called with, least and most, where that is not one.
INPUTS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("RNN", "GRU", "RNNCell", "GRUCell"), (1, 2)),
    **dict.fromkeys(("LSTM", "LSTMCell", "MultiheadAttention"), (1, 3)),
    **dict.fromkeys(("TransformerDecoder", "TransformerDecoderLayer", "Transformer"), (2, 2)),
    **dict.fromkeys(("Bilinear", "CosineSimilarity", "PairwiseDistance"), (2, 2)),
    **dict.fromkeys(("MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d"), (2, 2)),
    "EmbeddingBag": (1, 2),
}

# What a layer gives beside its output; another node of a Graph takes it as `<node>.<name>`.
OUTPUTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("RNN", "GRU"), ("hidden",)),
    "LSTM": ("hidden", "cell"),
    "LSTMCell": ("cell",),
    **{f"{kind}MaxPool{d}d": ("indices",) for kind in ("", "Adaptive") for d in (1, 2, 3)},
    **{f"FractionalMaxPool{d}d": ("indices",) for d in (2, 3)},
}

# What follows from the data or the layer before (for metrics from the task), and totals that are the steps of the run.
INFERRED = frozenset(
    (
        "in_features", "in_channels", "num_features", "normalized_shape", "num_channels", "num_classes", "num_outputs",
        "num_labels", "n_classes",
        "input_size", "embed_dim", "d_model", "in1_features", "in2_features", "num_embeddings", "kdim", "vdim", "batch_first",
        "CosineAnnealingLR.T_max", "OneCycleLR.total_steps",
    )
)  # fmt: skip

# Forms of arguments whose annotation in torch is missing or too loose.
FORMS: dict[str, tuple[str, ...]] = {
    "MultiStepLR.milestones": ("integers",),
    "normalized_shape": ("integer", "integers"),
    "unflattened_size": ("integers",),
    "LinearCrossEntropyLoss.out_features": ("integers",),
    # "balanced" is counted from the training part.
    **dict.fromkeys(
        ("CrossEntropyLoss.weight", "NLLLoss.weight", "MultiMarginLoss.weight", "LinearCrossEntropyLoss.weight", "pos_weight"),
        ("null", "string", "tensor"),
    ),
    "LPPool1d.kernel_size": ("integer",),
    "embed_dim": ("integer",),
    "num_heads": ("integer",),
    "kdim": ("integer", "null"),
    "vdim": ("integer", "null"),
    "activation": ("string",),
    "encoder_layer": ("layer",),
    "decoder_layer": ("layer",),
    "TransformerEncoder.norm": ("layer", "null"),
    "TransformerDecoder.norm": ("layer", "null"),
    # One number for all parameter groups, or a list with one for each.
    **dict.fromkeys(("CyclicLR.base_lr", "max_lr", "min_lr", "base_momentum", "max_momentum"), ("number", "numbers")),
    "lr_lambda": ("expression", "expressions"),
    "schedulers": ("schedulers",),
}

# Defaults that are written as a Python function in torch.
DEFAULTS: dict[str, str] = {"activation": "relu"}

CHOICES: dict[str, tuple[str, ...]] = {
    "activation": ("relu", "gelu"),
    "encoder_layer": ("TransformerEncoderLayer",),
    "decoder_layer": ("TransformerDecoderLayer",),
    **dict.fromkeys(("TransformerEncoder.norm", "TransformerDecoder.norm"), ("LayerNorm", "RMSNorm")),
    "EmbeddingBag.mode": ("sum", "mean", "max"),
    "RNNCell.nonlinearity": ("tanh", "relu"),
    "reduction": ("mean", "sum"),
    "Upsample.mode": ("nearest", "linear", "bilinear", "bicubic", "trilinear", "nearest-exact", "area"),
    "approximate": ("none", "tanh"),
    "line_search_fn": ("strong_wolfe",),
    "adjust_lr_fn": ("original", "match_rms_adamw"),
    "padding": ("same", "valid"),
    "weight": ("balanced",),
    "pos_weight": ("balanced",),
    # There is a series for each class or column, but none for each row.
    "multidim_average": ("global",),
    "ExplainedVariance.multioutput": ("uniform_average", "variance_weighted", "raw_values"),
    "R2Score.multioutput": ("uniform_average", "variance_weighted", "raw_values"),
}

# No size in a spec is larger: with it the product of two sizes is still caught by the limit on parameters.
MAX_SIZE = 65_536

Bounds = dict[str, float]  # of minimum, maximum (both may be reached), above, below (both may not)
_SIZE: Bounds = {"minimum": 1, "maximum": MAX_SIZE}
_WINDOW: Bounds = {"minimum": 1, "maximum": 4096}
_COUNT: Bounds = {"minimum": 1, "maximum": 2**31}
_COUNT_OR_NONE: Bounds = {"minimum": 0, "maximum": 2**31}
_RATE: Bounds = {"minimum": 0, "maximum": 1e6}
_FRACTION: Bounds = {"minimum": 0, "maximum": 1}
_SHARE: Bounds = {"above": 0, "maximum": 1}
_NOT_NEGATIVE: Bounds = {"minimum": 0}
_POSITIVE: Bounds = {"above": 0}
_DEPTH: Bounds = {"minimum": 1, "maximum": 64}
_WEIGHT: Bounds = {"minimum": -1e6, "maximum": 1e6}

BOUNDS: dict[str, Bounds] = {
    **dict.fromkeys(
        (
            "in_features", "out_features", "in_channels", "out_channels", "num_features", "num_channels", "num_groups",
            "num_parameters", "normalized_shape", "hidden_size", "groups", "size", "num_classes", "num_outputs",
            "num_labels", "n_classes", "cutoffs", "output_size", "upscale_factor", "downscale_factor", "divisor_override",
            "input_size", "embed_dim", "num_heads",
            "kdim", "vdim", "d_model", "nhead", "dim_feedforward", "embedding_dim", "in1_features", "in2_features",
        ),
        _SIZE,
    ),
    **dict.fromkeys(("kernel_size", "stride", "dilation"), _WINDOW),
    # The meta device takes a negative padding that a convolution's kernel refuses; a layer that pads may cut off instead.
    "padding": {"minimum": 0, "maximum": 4096},
    **{
        f"{kind}Pad{d}d.padding": {"minimum": -4096, "maximum": 4096}
        for kind in ("Zero", "Constant", "Reflection", "Replication", "Circular")
        for d in (1, 2, 3)
    },
    "output_padding": {"minimum": 0, "maximum": 4096},
    "scale_factor": {"above": 0, "maximum": 64},
    # Each of them is made of a dozen modules, in a second for a hundred.
    **dict.fromkeys(("num_layers", "num_encoder_layers", "num_decoder_layers"), _DEPTH),
    "num_embeddings": {"minimum": 1, "maximum": 10_000_000},
    "padding_idx": {"minimum": -10_000_000, "maximum": 10_000_000},
    "proj_size": {"minimum": 0, "maximum": MAX_SIZE},
    "max_norm": {"above": 0, "maximum": 1e6},
    "norm_type": {"above": 0, "maximum": 1e3},
    "PairwiseDistance.p": {"above": 0, "maximum": 1e3},
    "output_ratio": {"above": 0, "below": 1},
    "layer_norm_eps": {"minimum": 0, "maximum": 1e6},
    # initialisers
    **dict.fromkeys(
        (
            "constant_.val", "normal_.mean", "trunc_normal_.mean", "trunc_normal_.a", "trunc_normal_.b", "uniform_.a",
            "uniform_.b", "gain", "kaiming_normal_.a", "kaiming_uniform_.a",
        ),
        _WEIGHT,
    ),
    "std": {"minimum": 0, "maximum": 1e6},
    "trunc_normal_.std": {"above": 0, "maximum": 1e6},
    "sparsity": {"minimum": 0, "maximum": 1},
    "LocalResponseNorm.size": _WINDOW,
    "GLU.dim": {"minimum": -16, "maximum": 16},
    # optimizers
    "lr": _RATE,
    "betas": {"minimum": 0, "below": 1},
    "eps": {"minimum": 0, "maximum": 1e6},
    "weight_decay": {"minimum": 0, "maximum": 1e6},
    "momentum": {"minimum": 0, "maximum": 1e3},
    "rho": _FRACTION,
    "Adafactor.beta2_decay": {"maximum": 0},
    "Adafactor.d": {"minimum": 1},
    **dict.fromkeys(("lr_decay", "initial_accumulator_value", "momentum_decay", "RMSprop.alpha", "lambd", "t0"), _NOT_NEGATIVE),
    # LBFGS evaluates the loss up to max_eval times a step and keeps history_size directions as large as the model.
    "max_iter": {"minimum": 1, "maximum": 10_000},
    "max_eval": {"minimum": 1, "maximum": 10_000},
    "history_size": {"minimum": 1, "maximum": 1000},
    **dict.fromkeys(("tolerance_grad", "tolerance_change"), _NOT_NEGATIVE),
    "ns_steps": {"minimum": 1, "maximum": 99},
    "etas": _POSITIVE,
    "step_sizes": _POSITIVE,
    # schedulers
    **dict.fromkeys(("step_size", "T_max", "T_0", "T_mult", "step_size_up", "step_size_down", "total_steps"), _COUNT),
    **dict.fromkeys(("OneCycleLR.epochs", "OneCycleLR.steps_per_epoch"), _COUNT),
    **dict.fromkeys(("milestones", "total_iters", "patience", "cooldown"), _COUNT_OR_NONE),
    **dict.fromkeys(("base_lr", "max_lr", "min_lr", "eta_min"), _RATE),
    **dict.fromkeys(("pct_start", "base_momentum", "max_momentum", "end_factor"), _FRACTION),
    # torch divides by both when it goes on from them.
    **dict.fromkeys(("start_factor", "ConstantLR.factor"), _SHARE),
    "PolynomialLR.power": _NOT_NEGATIVE,
    "ReduceLROnPlateau.factor": {"above": 0, "below": 1},
    "div_factor": _POSITIVE,
    "final_div_factor": _POSITIVE,
    # losses and regularization
    "p": _FRACTION,
    "dropout": _FRACTION,
    "MultiMarginLoss.p": {"minimum": 1, "maximum": 2},
    "label_smoothing": _FRACTION,
    "TripletMarginLoss.p": {"above": 0, "maximum": 100},
    "CosineEmbeddingLoss.margin": {"minimum": -1, "maximum": 1},
    "TripletMarginWithDistanceLoss.margin": _POSITIVE,
    "TripletMarginLoss.margin": _POSITIVE,
    "CTCLoss.blank": {"minimum": 0, "maximum": MAX_SIZE},
    "AdaptiveLogSoftmaxWithLoss.div_value": {"minimum": 1, "maximum": MAX_SIZE},
    "HuberLoss.delta": _POSITIVE,
    "SmoothL1Loss.beta": _NOT_NEGATIVE,
    # metrics
    "n_bins": {"minimum": 1, "maximum": 10_000},
    # They allocate by these; with thresholds it is once for every class.
    "thresholds": {"minimum": 0, "maximum": 1000},
    "top_k": {"minimum": 1, "maximum": 1000},
    "adjusted": _COUNT_OR_NONE,
    "fpr_range": _FRACTION,
    "max_fpr": {"above": 0, "maximum": 1},
    "zero_division": _FRACTION,
    "MinkowskiDistance.p": {"minimum": 1},
}  # fmt: skip

# Members of a list where torch's annotation is open: for a class named `...2d` two of them, or one number for both.
PER_DIMENSION = frozenset({"kernel_size", "stride", "padding", "dilation", "output_padding", "output_size"})

_CONTAINER = "it is a container without a forward of its own; use a Sequential, or the nodes of a Graph"
_BASE = "it is the base of other classes; name one of them, such as {names}"

REFUSED: dict[str, dict[str, str]] = {
    "losses": {
        "NLLLoss2d": "deprecated in torch; use NLLLoss",
    },
    "optimizers": {},
    "lr_schedulers": {},
    "layers": {
        "RNNBase": _BASE.format(names="LSTM, GRU or RNN"),
        "RNNCellBase": _BASE.format(names="LSTMCell, GRUCell or RNNCell"),
        **dict.fromkeys(("ModuleList", "ModuleDict", "ParameterList", "ParameterDict", "Container", "Module"), _CONTAINER),
        "CrossMapLRN2d": "deprecated in torch; use LocalResponseNorm",
        "DataParallel": "the service decides on devices",
        "SyncBatchNorm": "it runs on several GPUs at once only",
    },
    "initializers": {},
    "metrics": {
        **dict.fromkeys(("BinaryFairness", "BinaryGroupStatRates"), "it compares groups of rows, which no spec names"),
    },
}  # fmt: skip

# Whole families of classes, by a pattern of the name (fullmatch), after REFUSED.
REFUSED_FAMILIES: dict[str, tuple[tuple[str, str], ...]] = {
    "losses": (),
    "optimizers": (),
    "lr_schedulers": (),
    "layers": ((r"Lazy.+", "sizes that are left out are inferred anyway; name the class without Lazy"),),
    "initializers": (),
    "metrics": (
        (
            r"(Binary|Multiclass|Multilabel)?(ROC|PrecisionRecallCurve)",
            "it gives a curve over thresholds, but a series holds a number a step; AUROC and AveragePrecision are the areas "
            "under such curves",
        ),
    ),
}
# Metrics of torchmetrics' other modules, whole: what each compares is not what a job has.
OTHER_METRICS: dict[str, str] = {
    "aggregation": "it keeps figures and compares nothing; a curve has the smallest, largest and last of a series",
    "audio": "metrics of sound are not supported yet",
    "clustering": "metrics of clusterings are not supported yet; no loss of torch.nn makes one",
    "detection": "metrics of detected objects are not supported yet",
    "image": "metrics of pairs of images are not supported yet",
    "multimodal": "metrics across kinds of data are not supported yet",
    "nominal": "metrics of association between columns are not supported yet",
    "retrieval": "metrics of ranked queries are not supported yet",
    "segmentation": "metrics of masks are not supported yet",
    "shape": "metrics of sets of points are not supported yet",
    "text": "metrics of decoded text are not supported yet",
    "wrappers": "it changes another metric in Python; name that metric itself",
}
TASK_WRAPPER = "it only chooses between other classes; name one of them, such as {names}"
