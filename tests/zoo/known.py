"""What torch, transformers or onnxscript cannot do themselves, by (entry, way), with the cause.

Ways: ``torch gradients`` (running the exported program with gradients), ``torch float64``,
``onnx <opset>`` and ``onnx dynamic <opset>``. What to do about it ends each cause.
"""

from __future__ import annotations

_STRIDES = (
    "torch: scaled_dot_product_attention is traced with the strides of the flash kernel, but on "
    "the CPU a mask that requires gradients (a learned bias) takes the math kernel, whose output "
    "is contiguous; the reshape after it was traced to aten.view, which then raises 'view size is "
    "not compatible'. "
)
_RUN = _STRIDES + (
    "The program runs without gradients, and with gradients once aten.view is aten.reshape."
)
_EXPORT = _STRIDES + (
    "torch.onnx.export meets it while decomposing; under torch.no_grad() or with frozen weights it "
    "works. build(onnx=True) freezes them."
)
_ROTARY = (
    "onnxscript: the rule RotaryEmbedding23 (optimize=True) does not look at the batch of the "
    "cosine table, which is 1 where positions are counted inside the model, and ONNX Runtime then "
    "refuses the node ('cos_cache' expected to have the same shape as 'x'). build(positions=True) "
    "passes position_ids with the batch of the tokens; opset 20 and static shapes have no fault."
)
_BROADCAST = (
    "torch.onnx: aten_scaled_dot_product_attention_23 asserts as many key/value as query heads, "
    "where torch broadcasts the one head of multi-query attention. build(onnx=True) takes the "
    "eager attention; opset 20 has no fault."
)
_GROUPED = (
    "torch: grouped_mm takes no float64 on the CPU, so the module in double precision raises. The "
    "exported program holds transformers.grouped_mm_fallback instead, which takes float64; so does "
    "the batched_mm of build(onnx=True)."
)
_UNTRANSLATED = (
    "torch.onnx has no translation of transformers.grouped_mm_fallback, which the default experts "
    "export to. build(onnx=True) takes batched_mm."
)
_ROTATED = ["gpt_neox", "falcon", "falcon_mq", "llama", "llama_tied", "mistral", "qwen2", "qwen3"]
_ROTATED += ["gemma2", "phi3", "mixtral"]
_BIASED = ["t5", "t5_untied", "swin"]

KNOWN: dict[tuple[str, str], str] = {
    **{(name, "torch gradients"): _RUN for name in _BIASED},
    **{(name, f"onnx {opset}"): _EXPORT for name in _BIASED for opset in (20, 23)},
    **{(name, "onnx dynamic 23"): _ROTARY for name in _ROTATED},
    ("falcon_mq", "onnx 23"): _BROADCAST,
    ("mixtral", "torch float64"): _GROUPED,
    **{("mixtral", f"onnx {opset}"): _UNTRANSLATED for opset in (20, 23)},
}
