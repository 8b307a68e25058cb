"""What other libraries call the arguments of a loss, and what these are here.

PyTorch, Keras, TensorFlow, optax, MLX, scikit-learn, the Trainer of transformers, Liger, Cut Cross
Entropy, FlashAttention, Megatron, fairseq and timm, and what people write who have those in mind.
"""

import re

FIRST = "the first argument: logits"
SECOND = "the second argument: labels, class ids or rows of probabilities"
ORDER = "(logits come first here, labels second)"
AVERAGE = 'reduction="mean", "sum" or "none"'
EACH = "sample_weight=, a weight for each example; a boolean one is a mask, True where it counts"
OF_CLASSES = "class_weight=, a weight for each class"
SMOOTHING = "label_smoothing=, the share of a label that is spread over all classes"
IGNORED = "ignore_index=, the class id that does not count"
SQUARE = "z_loss=, the factor of the squared log of the softmax's denominator"
DIVISOR = "normalizer=, what the mean is divided by"
COUNTED = "no option: the logits tell the number of classes"
CAP = "softcap=, the cap of the logits"
WITHOUT_AXIS = 'no option: reduction="none" has the shape of the logits without the class axis'
ONE_CLASS = "no option: an example has one class; several at once want a binary (sigmoid) loss"
CHOSEN = "no option: how the loss is computed is chosen here"
FOCAL = (
    'no option: a focal loss is made of losses, those of reduction="none": '
    "((1 - exp(-losses)) ** gamma * losses)"
)
LSE = 'no option: a loss of reduction="none" and the logit of its label add up to it'
OF_TRAINER = (
    f"{DIVISOR}; the Trainer of transformers that passes it wants CausalLMLoss() of "
    "unified_loss.integrations.transformers as its compute_loss_func"
)
OF_MODEL = (
    "the loss_function of a language model of transformers, which passes it, is CausalLMLoss() of "
    "unified_loss.integrations.transformers"
)
OF_GROUP = "class_group=, the group whose members hold the classes"
TOTALS = "no option: cross_entropy_totals counts the examples whose label has the largest logit"

AXIS, LAYER = "axis", "hidden"  # what a call has instead of the other

Meanings = str | tuple[str, ...]
# What is here, and what differs: several where it may be either. Then the words for it.
OF_LOSSES: tuple[tuple[Meanings, str], ...] = (
    (FIRST, "input inputs _input pred preds prediction predictions logit"),
    (FIRST, "output outputs pooled_logits vocab_parallel_logits"),
    (f"{FIRST}, not probabilities {ORDER}", "y_pred y_prob y_proba y_score probs probabilities"),
    (SECOND, "label target targets ground_truth"),
    (f"{SECOND} {ORDER}", "y_true"),
    (f"{SECOND}, which stand where they are predicted", "shift_labels"),
    ((OF_CLASSES, EACH), "weight"),
    (OF_CLASSES, "class_weights cls_weight ce_weight"),
    ("class_weight=; a weight of positive examples alone is one of a binary loss", "pos_weight"),
    (EACH, "weights sample_weights example_weight example_weights"),
    (EACH, "loss_mask mask where"),
    ("weight=, a row for each class", "linear_weight lin_weight lm_head_weight lm_weight"),
    ("weight=, a row for each class: a kernel has a column for each, so kernel.T", "kernel"),
    ("bias=, a number for each class", "linear_bias"),
    ("axis=, the axis of the classes", "dim class_dim class_axis"),
    ("no option, and needs no word: the loss takes logits, always", "from_logits"),
    (IGNORED, "ignore_class ignore_label ignore_id ignore_idx ignore_value ignored_index"),
    (f"{AVERAGE}; True is the mean, False the sum", "size_average normalize"),
    (f"{AVERAGE}; False is none", "reduce reduce_loss"),
    (f"{AVERAGE}; of a mean over the classes, class_weight= is 1 / counts", "average"),
    (SMOOTHING, "smoothing label_smooth label_smoothing_factor smooth_factor"),
    ((SMOOTHING, "no option: no logarithm is taken of 0, so nothing is clipped"), "eps epsilon"),
    ((SMOOTHING, f"{OF_CLASSES}, of a focal loss"), "alpha"),
    (FOCAL, "gamma"),
    (SQUARE, "lse_square_scale z_loss_weight z_loss_coef z_loss_coeff z_loss_factor"),
    (SQUARE, "z_loss_multiplier"),
    ("no option: z_loss= adds it, so it is the loss with it less that without", "return_z_loss"),
    (LSE, "return_lse"),
    (TOTALS, "return_token_accuracy return_predicted_tokens"),
    (CAP, "logit_softcapping final_logit_softcapping softcapping"),
    (CAP, "logit_softcap logits_soft_cap logit_cap soft_cap"),
    (OF_TRAINER, "num_items_in_batch"),
    (DIVISOR, "avg_factor num_items loss_normalizing_factor denominator global_batch_size"),
    (COUNTED, "num_classes n_classes"),
    (f"{COUNTED}; {OF_MODEL}", "vocab_size"),
    (OF_GROUP, "process_group tp_group dist_process_group vocab_parallel_options"),
    ("no option of a function", "name"),
)
# Words that other things than losses have as well, so that a call may hand them on.
OF_OTHERS: tuple[tuple[Meanings, str], ...] = (
    (FIRST, "scores"),
    (SECOND, "y"),
    (COUNTED, "num_labels depth"),
    (IGNORED, "padding_idx pad_idx pad_id pad_token_id label_pad_token_id"),
    (f"{EACH}; labels of -100 do not count anyway", "attention_mask padding_mask label_mask"),
    ("hidden=, what enters the last layer", "hidden_states last_hidden_state embeddings e"),
    ("weight=, a row for each class", "lm_head classifier c"),
    ("no option: labels[:, 1:] are those of logits[:, :-1]", "shift"),
    ("no option: divide the logits by it first", "temperature"),
    ("no option: multiply the logits by it first", "logit_scale"),
    (WITHOUT_AXIS, "keepdims keepdim"),
    ("no option: it is computed in float32, of float64 logits in float64", "dtype accum_dtype"),
    ("no option: sums are made in float32 at least", "accum_e_fp32 accum_c_fp32"),
    ("no option: the result is new", "out"),
    ("no option: it is computed where the logits are", "device"),
    ("no option: no argument is written to", "inplace inplace_backward"),
    (CHOSEN, "backend impl chunk_size num_chunks chunking_strategy filter_eps"),
    ("check=, whether the values of labels are looked at", "validate_args"),
    (ONE_CLASS, "task multi_label multilabel"),
    ("no option: labels are numbers from 0", "class_names label_names target_names"),
    ("no option of a function", "scope"),
)


def _by_word(groups: tuple[tuple[Meanings, str], ...]) -> dict[str, Meanings]:
    return {word: told for told, words in groups for word in words.split()}


WORDS = _by_word(OF_LOSSES)
OTHERS = _by_word(OF_OTHERS)
# The same of an option that is turned off, where that differs.
OFF = {
    "from_logits": (
        "no option: the loss takes logits, so delete it together with the last softmax, or take "
        "the logarithm of the probabilities"
    ),
}
# Of calls that begin with another array, named here: what is said of arrays instead.
PLACES = {
    LAYER: {
        FIRST: "the first argument: hidden, what enters the last layer",
        "the second argument: labels": "the third argument: labels",
        ORDER: "(hidden comes first here, labels third)",
        "the logits tell": "the rows of weight tell",
        "logits[:, :-1]": "hidden[:, :-1]",
        "the logits by it": "hidden by it",
    },
    "outputs": {FIRST: "the first argument: outputs, what the model returned, or its logits"},
    "y_true": {
        FIRST: "the second argument: y_pred, the logits",
        "the second argument: labels": "the first argument: y_true",
        ORDER: "(labels come first here)",
    },
}
# Arguments of the linear form alone: what to do where there are logits.
WITHOUT = {
    "softcap": "no option where there are logits: softcap * tanh(logits / softcap) has a cap",
    "bias": "no option where there are logits: add it to them",
    LAYER: "one of linear_cross_entropy(hidden, weight, labels), which has no logits",
    "weight": "one of linear_cross_entropy(hidden, weight, labels), which has no logits",
}
# Arrays that are given by place and by name: what people mean by the name.
TWICE = {
    "weight": "of other losses it is class_weight=, one for each class, or sample_weight=",
    "logits": f"write both by place, or both by name {ORDER}",
    "labels": (
        "a list of all classes is no option: labels are ids, numbers from 0, and the logits tell "
        "how many classes there are"
    ),
}
NAMES = {"logits": FIRST, "labels": SECOND, **WORDS}  # with ours, where a call has others
OF_ARRAYS = {name for name, told in NAMES.items() if str(told).startswith((FIRST, SECOND))}
OURS = frozenset(re.findall(r"(\w+)=", " ".join(map(str, WORDS.values()))))
