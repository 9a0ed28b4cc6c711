"""What introspection cannot see: choices, bounds, sizes that follow from the data, and what a spec may not use and why.

The only hand-kept part of the catalog. Bounds are what torch's own constructors enforce, or what keeps a spec harmless.
"""

from __future__ import annotations

# Arguments that a spec never gives: postgrad decides them, or they are deprecated.
REFUSED_ARGUMENTS = {
    "device": "the job's own `device` field decides where everything lives",
    "dtype": "modules are float32 (precision 32-true)",
    "size_average": "deprecated in torch; use `reduction`",
    "reduce": "deprecated in torch; use `reduction`",
    "foreach": "it is chosen by torch and changes no result",
    "fused": "fused arithmetic changes the bits of the textbook loop",
    "capturable": "it is for CUDA graphs, which postgrad decides on",
    "differentiable": "a step that is differentiated through is not something a training job does",
    "return_indices": "a Sequential passes one tensor from layer to layer",
    "last_epoch": "resuming is the service's own work",
    "verbose": "deprecated in torch",
    "_weight": "weights are drawn from the seed",
    "_freeze": "weights are drawn from the seed",
}

# Positional arguments that the service itself supplies.
SUPPLIED_ARGUMENTS = frozenset({"params", "optimizer"})

# Sizes that follow from the data or from the layer before (and for metrics from the task).
INFERRED = frozenset(
    {"in_features", "in_channels", "num_features", "normalized_shape", "num_channels", "num_classes", "num_outputs"}
)

# Forms of arguments whose annotation in torch is missing or too loose.
FORMS: dict[str, tuple[str, ...]] = {
    "MultiStepLR.milestones": ("integers",),
    "normalized_shape": ("integer", "integers"),
    "unflattened_size": ("integers",),
    "LPPool1d.kernel_size": ("integer",),
    "ignore_index": ("integer", "null"),
}

CHOICES = {
    "reduction": ("mean", "sum"),
    "mode": ("nearest", "linear", "bilinear", "bicubic", "trilinear", "nearest-exact", "area"),
    "ReduceLROnPlateau.mode": ("min", "max"),
    "CyclicLR.mode": ("triangular", "triangular2", "exp_range"),
    "CyclicLR.scale_mode": ("cycle", "iterations"),
    "threshold_mode": ("rel", "abs"),
    "approximate": ("none", "tanh"),
    "padding": ("same", "valid"),
}

# Closed ranges (low, high); None is open. The name alone is for every class, "Class.name" for one.
BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "lr": (0, 1e6),
    "momentum": (0, 1e3),
    "weight_decay": (0, 1e6),
    "eps": (0, 1e6),
    "p": (0, 1),
    "label_smoothing": (0, 1),
    "lambd": (0, None),
    "pct_start": (0, 1),
    "Dropout.p": (0, 1),
    "MultiMarginLoss.p": (1, 2),
    "MinkowskiDistance.p": (1, 1000),
    "groups": (1, 65536),
    "num_groups": (1, 65536),
    "out_features": (1, 65536),
    "out_channels": (1, 65536),
    "LocalResponseNorm.size": (1, 4096),
    "kernel_size": (1, 4096),
    "stride": (1, 4096),
    "dilation": (1, 4096),
    "step_size": (1, None),
    "T_max": (1, None),
    "T_0": (1, None),
    "T_mult": (1, None),
    "HuberLoss.delta": (1e-300, None),
    # Metrics allocate by these; with thresholds it is once for every class.
    "thresholds": (0, 1000),
    "n_bins": (1, 10_000),
    "top_k": (1, 1000),
}

# No size in a spec is larger: with it the product of two sizes is still caught by the limit on parameters.
MAX_SIZE = 65536

# Pairs whose members are at least 0 and below 1.
BELOW_ONE = frozenset({"betas"})

_ONE = "the loop drives losses with one input and one target for now"
_TUPLE = "it returns a tuple or takes several inputs; a Sequential passes one tensor from layer to layer"
_CONTAINER = "it is a container; list its layers one by one"
_TOKENS = "it takes whole-number tokens, which no data set gives yet"
_FUNCTION = "it needs a Python function, which a spec cannot carry"

REFUSED: dict[str, dict[str, str]] = {
    "losses": {
        **dict.fromkeys(
            ("CosineEmbeddingLoss", "MarginRankingLoss", "TripletMarginLoss", "TripletMarginWithDistanceLoss"),
            "it takes two inputs and a target; " + _ONE,
        ),
        "GaussianNLLLoss": "it takes a variance beside input and target; " + _ONE,
        "CTCLoss": "it takes sequence lengths beside input and target; " + _ONE,
        **dict.fromkeys(
            ("AdaptiveLogSoftmaxWithLoss", "LinearCrossEntropyLoss"), "it has parameters of its own, which are not driven yet"
        ),
        "MultiLabelMarginLoss": "it wants multi-label targets, which no data set gives yet",
        "MultiLabelSoftMarginLoss": "it wants multi-label targets, which no data set gives yet",
        "NLLLoss2d": "deprecated in torch; use NLLLoss",
    },
    "optimizers": {
        "LBFGS": "it evaluates the loss several times a step through a closure, which the loop does not drive yet",
        "SparseAdam": "it wants sparse gradients, which no layer of a Sequential gives yet",
        "Muon": "it optimizes matrices only and wants another optimizer for the rest, which needs parameter groups",
    },
    "lr_schedulers": {
        "LambdaLR": _FUNCTION,
        "MultiplicativeLR": _FUNCTION,
        "SequentialLR": "it is made of other schedulers, which a spec cannot nest yet",
        "ChainedScheduler": "it is made of other schedulers, which a spec cannot nest yet",
        "SWALR": "it belongs to weight averaging, which the loop does not drive yet",
    },
    "layers": {
        **dict.fromkeys(
            (
                "RNN", "LSTM", "GRU", "RNNBase", "RNNCell", "LSTMCell", "GRUCell", "RNNCellBase", "MultiheadAttention",
                "Transformer",
                "TransformerDecoder", "TransformerDecoderLayer", "TransformerEncoder", "TransformerEncoderLayer", "Bilinear",
                "CosineSimilarity", "PairwiseDistance", "MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d",
            ),
            _TUPLE,
        ),
        **dict.fromkeys(
            ("Sequential", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict", "Container", "Module"), _CONTAINER
        ),
        **dict.fromkeys(("Embedding", "EmbeddingBag"), _TOKENS),
        "CrossMapLRN2d": "deprecated in torch; use LocalResponseNorm",
        "DataParallel": "the service decides on devices",
        "SyncBatchNorm": "it runs on several GPUs at once only",
        "FractionalMaxPool2d": "its random draws are not part of the promise about bits yet",
        "FractionalMaxPool3d": "its random draws are not part of the promise about bits yet",
    },
    "metrics": {
        **dict.fromkeys(("BinaryFairness", "BinaryGroupStatRates"), "it takes group labels beside outputs and targets"),
        **dict.fromkeys(("BinaryStatScores", "MulticlassStatScores"), "it gives several numbers; a series holds one"),
        "MulticlassExactMatch": "it wants several labels a row, which no data set gives yet",
        "ContinuousRankedProbabilityScore": "it wants several predictions a row",
    },
}  # fmt: skip
