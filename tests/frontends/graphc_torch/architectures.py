"""Small models of many architectures, by configuration, with seeded weights: what the tests and the table of coverage run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as T
from torch import nn
from torch.utils import _pytree as pytree

import graphc

Inputs = Callable[[int, int], dict[str, torch.Tensor]]
"""(batch, length) -> the keyword arguments of forward; images and features take no length."""


@dataclass(frozen=True)
class Architecture:
    """A model by name: its kind, how it is built, its inputs, and the axes that are dynamic: "batch" or "length"."""

    name: str
    kind: str
    build: Callable[[], nn.Module]
    inputs: Inputs
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)

    def module(self) -> nn.Module:
        """The model in inference mode; statistics and scales are away from 0 and 1, so that they matter."""
        torch.manual_seed(0)
        module = self.build().eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for layer in module.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.running_mean.uniform_(-0.1, 0.1, generator=generator)  # type: ignore[union-attr]
                    layer.running_var.uniform_(0.5, 1.5, generator=generator)  # type: ignore[union-attr]
        return module

    def example(self, batch: int = 2, length: int = 12, seed: int = 0) -> dict[str, torch.Tensor]:
        """Inputs of a size; where a size isn't dynamic, it must be that of the compilation."""
        torch.manual_seed(seed)
        return self.inputs(batch, length)

    def dims(self) -> dict[str, dict[int, Any]]:
        """`dynamic=` of graphc.compile."""
        return {
            name: {axis: graphc.Dim(d, 1, 32 if d == "length" else 8) for axis, d in axes.items()}
            for name, axes in self.dynamic.items()
        }

    def sizes(self) -> list[tuple[int, int]]:
        """(batch, length) that one compilation takes: those of the example, the smallest, larger ones."""
        dims = {d for axes in self.dynamic.values() for d in axes.values()}
        batches = (2, 1, 3) if "batch" in dims else (2, 2, 2)
        lengths = (12, 1, 20) if "length" in dims else (12, 12, 12)
        return list(dict.fromkeys(zip(batches, lengths, strict=True)))


def tensors_of(outputs: Any) -> list[torch.Tensor]:
    """The tensors in what a module returns, in order."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, by the largest value."""
    scale = float(theirs.abs().max()) if theirs.numel() else 0.0
    return float((ours.double() - theirs.double()).abs().max()) / max(scale, 1e-30) if theirs.numel() else 0.0


# Inputs

_BOTH = {0: "batch", 1: "length"}


def _tokens(high: int = 90, *names: str) -> Inputs:
    def make(batch: int, length: int) -> dict[str, torch.Tensor]:
        return {name: torch.randint(3, high, (batch, length)) for name in names or ("input_ids",)}

    return make


def _masked(batch: int, length: int) -> dict[str, torch.Tensor]:
    """Tokens, the last ones of the first sequence hidden."""
    mask = torch.ones((batch, length), dtype=torch.int64)
    mask[0, (length + 1) // 2 :] = 0
    return {"input_ids": torch.randint(3, 90, (batch, length)), "attention_mask": mask}


def _images(size: int, name: str = "pixel_values") -> Inputs:
    return lambda batch, length: {name: torch.randn(batch, 3, size, size)}


def _features(*shape: int, name: str) -> Inputs:
    return lambda batch, length: {name: torch.randn(batch, *shape)}


# Models of torch alone


class _Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 16, 2, batch_first=True), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0])


class _Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(8, 12, 2, batch_first=True, bidirectional=True), nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, last = self.gru(x)
        return self.head(y), last


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))


def _sequences(batch: int, length: int) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(batch, length, 8)}


# transformers, by configuration

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_TEXT = {**_SMALL, "vocab_size": 100, "max_position_embeddings": 64, "pad_token_id": 1}
_PIXELS = {**_SMALL, "image_size": 32, "patch_size": 8, "num_labels": 10}
_DECODER = {"use_cache": False, "bos_token_id": 0, "eos_token_id": 2}
_IDS = {"input_ids": _BOTH}
_MASKED_IDS = {"input_ids": _BOTH, "attention_mask": _BOTH}
_PICTURES = {"pixel_values": {0: "batch"}}


def _seq2seq(batch: int, length: int) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.randint(3, 90, (batch, length)),
        "decoder_input_ids": torch.randint(3, 90, (batch, 7)),
    }


def _text(name: str, kind: str, model: Any, config: Any, inputs: Inputs, dynamic: Any, **options: Any) -> Architecture:
    return Architecture(name, kind, lambda: model(config(**options)), inputs, dynamic)


def _vision(name: str, model: Any, config: Any, size: int, **options: Any) -> Architecture:
    return Architecture(name, "vision", lambda: model(config(**options)), _images(size), _PICTURES)


_SEQ2SEQ_DIMS = {"input_ids": _BOTH, "decoder_input_ids": {0: "batch"}}
_LAYERED = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
            "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "use_cache": False}  # fmt: skip

YARDSTICKS = (
    Architecture("mlp", "torch", _mlp, _features(16, name="input"), {"input": {0: "batch"}}),
    Architecture("lstm", "torch", _Tagger, _sequences, {"x": _BOTH}),
    _vision("mobilenetv2", T.MobileNetV2ForImageClassification, T.MobileNetV2Config, 32, image_size=32,
            depth_multiplier=0.25, num_labels=10),
    _vision("resnet", T.ResNetForImageClassification, T.ResNetConfig, 32, embedding_size=8, hidden_sizes=[16, 24, 32, 40],
            depths=[1, 1, 1, 1], num_labels=10),
    _vision("convnext", T.ConvNextForImageClassification, T.ConvNextConfig, 32, hidden_sizes=[8, 12, 16, 20],
            depths=[1, 1, 1, 1], num_labels=10),
    _vision("vit", T.ViTForImageClassification, T.ViTConfig, 32, **_PIXELS),
    _text("bert", "encoder", T.BertModel, T.BertConfig, _masked, _MASKED_IDS, **_TEXT),
    _text("gpt2", "decoder", T.GPT2LMHeadModel, T.GPT2Config, _tokens(), _IDS, vocab_size=100, n_positions=64, n_embd=32,
          n_layer=2, n_head=4, **_DECODER),
)  # fmt: skip

OTHERS = (
    Architecture("gru", "torch", _Gru, _sequences, {"x": _BOTH}),
    _text("distilbert", "encoder", T.DistilBertModel, T.DistilBertConfig, _masked, _MASKED_IDS, vocab_size=100,
          max_position_embeddings=64, dim=32, n_layers=2, n_heads=4, hidden_dim=48),
    _text("roberta", "encoder", T.RobertaModel, T.RobertaConfig, _tokens(), _IDS, **_TEXT),
    _text("albert", "encoder", T.AlbertModel, T.AlbertConfig, _tokens(), _IDS, embedding_size=16, **_TEXT),
    _text("electra", "encoder", T.ElectraModel, T.ElectraConfig, _masked, _MASKED_IDS, embedding_size=16, **_TEXT),
    _text("mpnet", "encoder", T.MPNetModel, T.MPNetConfig, _tokens(), _IDS, **_TEXT),
    _text("deberta-v2", "encoder", T.DebertaV2Model, T.DebertaV2Config, _tokens(), {"input_ids": {0: "batch"}},
          relative_attention=True, pos_att_type=["p2c", "c2p"], type_vocab_size=0, **_TEXT),
    _text("modernbert", "encoder", T.ModernBertModel, T.ModernBertConfig, _tokens(), _IDS, reference_compile=False,
          global_attn_every_n_layers=2, local_attention=8, **_TEXT),
    _text("llama", "decoder", T.LlamaForCausalLM, T.LlamaConfig, _tokens(), _IDS, num_key_value_heads=2, **_DECODER, **_TEXT),
    _text("mistral", "decoder", T.MistralForCausalLM, T.MistralConfig, _tokens(), _IDS, num_key_value_heads=2,
          sliding_window=8, **_DECODER, **_TEXT),
    _text("qwen2", "decoder", T.Qwen2ForCausalLM, T.Qwen2Config, _tokens(), _IDS, num_key_value_heads=2, **_DECODER, **_TEXT),
    _text("qwen3", "decoder", T.Qwen3ForCausalLM, T.Qwen3Config, _tokens(), _IDS, num_key_value_heads=2, head_dim=8,
          **_DECODER, **_TEXT),
    _text("gemma2", "decoder", T.Gemma2ForCausalLM, T.Gemma2Config, _tokens(), _IDS, num_key_value_heads=2, head_dim=8,
          sliding_window=8, **_DECODER, **_TEXT),
    _text("phi", "decoder", T.PhiForCausalLM, T.PhiConfig, _tokens(), _IDS, **_DECODER, **_TEXT),
    _text("gpt-neox", "decoder", T.GPTNeoXForCausalLM, T.GPTNeoXConfig, _tokens(), _IDS, **_DECODER, **_TEXT),
    _text("opt", "decoder", T.OPTForCausalLM, T.OPTConfig, _tokens(), _IDS, ffn_dim=48, word_embed_proj_dim=32,
          **_DECODER, **_TEXT),
    _text("bloom", "decoder", T.BloomForCausalLM, T.BloomConfig, _tokens(), _IDS, vocab_size=100, hidden_size=32, n_layer=2,
          n_head=4, **_DECODER),
    _text("falcon", "decoder", T.FalconForCausalLM, T.FalconConfig, _tokens(), _IDS, **_DECODER, **_TEXT),
    _text("mixtral", "decoder", T.MixtralForCausalLM, T.MixtralConfig, _tokens(), _IDS, num_key_value_heads=2,
          num_local_experts=4, num_experts_per_tok=2, experts_implementation="batched_mm", **_DECODER, **_TEXT),
    _text("mamba", "decoder", T.MambaForCausalLM, T.MambaConfig, _tokens(), {"input_ids": {0: "batch"}}, vocab_size=100,
          hidden_size=32, num_hidden_layers=2, state_size=4, **_DECODER),
    _text("t5", "encoder-decoder", T.T5ForConditionalGeneration, T.T5Config, _seq2seq, _SEQ2SEQ_DIMS, vocab_size=100,
          d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, use_cache=False, decoder_start_token_id=0),
    _text("bart", "encoder-decoder", T.BartForConditionalGeneration, T.BartConfig, _seq2seq, _SEQ2SEQ_DIMS, vocab_size=100,
          max_position_embeddings=64, decoder_start_token_id=2, **_LAYERED),
    _text("pegasus", "encoder-decoder", T.PegasusForConditionalGeneration, T.PegasusConfig, _seq2seq, _SEQ2SEQ_DIMS,
          vocab_size=100, max_position_embeddings=64, decoder_start_token_id=0, **_LAYERED),
    _vision("deit", T.DeiTForImageClassification, T.DeiTConfig, 32, **_PIXELS),
    _vision("beit", T.BeitForImageClassification, T.BeitConfig, 32, use_relative_position_bias=True, **_PIXELS),
    _vision("dinov2", T.Dinov2Model, T.Dinov2Config, 32, **{k: v for k, v in _PIXELS.items() if k != "num_labels"}),
    _vision("swin", T.SwinForImageClassification, T.SwinConfig, 32, image_size=32, patch_size=2, embed_dim=8, depths=[2, 2],
            num_heads=[2, 4], window_size=4, num_labels=10),
    _vision("convnextv2", T.ConvNextV2ForImageClassification, T.ConvNextV2Config, 32, hidden_sizes=[8, 12, 16, 20],
            depths=[1, 1, 1, 1], num_labels=10),
    _vision("segformer", T.SegformerForSemanticSegmentation, T.SegformerConfig, 64, depths=[1, 1, 1, 1],
            hidden_sizes=[8, 16, 24, 32], decoder_hidden_size=16, num_labels=5),
    _vision("mobilevit", T.MobileViTForImageClassification, T.MobileViTConfig, 64, image_size=64, hidden_sizes=[16, 24, 32],
            neck_hidden_sizes=[4, 8, 12, 16, 20, 24, 32], num_attention_heads=2, num_labels=10),
    _vision("regnet", T.RegNetForImageClassification, T.RegNetConfig, 32, embedding_size=8, hidden_sizes=[16, 16, 32, 32],
            depths=[1, 1, 1, 1], groups_width=8, num_labels=10),
    _vision("efficientnet", T.EfficientNetForImageClassification, T.EfficientNetConfig, 32, image_size=32,
            width_coefficient=0.25, depth_coefficient=0.1, hidden_dim=320, num_labels=10),
    _vision("poolformer", T.PoolFormerForImageClassification, T.PoolFormerConfig, 32, depths=[1, 1, 1, 1],
            hidden_sizes=[8, 12, 16, 20], num_labels=10),
    _text("clip", "vision and text", T.CLIPModel, T.CLIPConfig,
          lambda batch, length: {**_tokens(90)(batch, 9), **_images(32)(batch, length)},
          {"input_ids": {0: "batch"}, "pixel_values": {0: "images"}},
          text_config={**_TEXT, "projection_dim": 16, **_DECODER},
          vision_config={**_PIXELS, "projection_dim": 16}, projection_dim=16),
    Architecture("wav2vec2", "speech", lambda: T.Wav2Vec2ForCTC(T.Wav2Vec2Config(
        **_SMALL, vocab_size=20, conv_dim=(16, 16), conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4)),
        _features(400, name="input_values"), {"input_values": {0: "batch"}}),
    Architecture("hubert", "speech", lambda: T.HubertModel(T.HubertConfig(
        **_SMALL, conv_dim=(16, 16), conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4)),
        _features(400, name="input_values"), {"input_values": {0: "batch"}}),
    Architecture("whisper", "speech", lambda: T.WhisperForConditionalGeneration(T.WhisperConfig(
        **_LAYERED, vocab_size=100, num_mel_bins=10, max_source_positions=16, max_target_positions=16, pad_token_id=1,
        bos_token_id=2, eos_token_id=2, decoder_start_token_id=3)),
        lambda batch, length: {"input_features": torch.randn(batch, 10, 32), **_tokens(90, "decoder_input_ids")(batch, 6)},
        {"input_features": {0: "batch"}, "decoder_input_ids": {0: "batch"}}),
)  # fmt: skip

ARCHITECTURES = {a.name: a for a in (*YARDSTICKS, *OTHERS)}
