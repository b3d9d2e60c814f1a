"""transformers: networks of sounds, of waves and of spectrograms."""

from __future__ import annotations

from typing import Any

import torch
from architecture import Architecture
from torch import Tensor
from zoo_transformers import SMALL, network

SPEECH = {
    **SMALL, "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "vocab_size": 8,
}  # fmt: skip
WAVE = (0, 5120)


def _wave(image: Tensor) -> dict[str, Any]:
    return {"input_values": image}


def _features(image: Tensor) -> dict[str, Any]:
    return {"input_features": image}


def _whisper(image: Tensor) -> dict[str, Any]:
    return {"input_features": image, "decoder_input_ids": torch.arange(3).repeat(len(image), 1)}


def _speech(model: str, config: str, **more: Any) -> Architecture:
    return Architecture(network(model, config, **{**SPEECH, **more}), WAVE, _wave)


def _codes(result: Any) -> Tensor:
    return result.audio_values


WHISPER = {"vocab_size": 16, "num_mel_bins": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
           "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "d_model": 32, "max_source_positions": 64,
           "max_target_positions": 8, "pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}  # fmt: skip

ARCHITECTURES = {
    "Wav2Vec2": _speech("Wav2Vec2Model", "Wav2Vec2Config"),
    "Wav2Vec2, letters": _speech("Wav2Vec2ForCTC", "Wav2Vec2Config"),
    "Wav2Vec2, layer norm": _speech("Wav2Vec2Model", "Wav2Vec2Config", feat_extract_norm="layer", do_stable_layer_norm=True),
    "Wav2Vec2 Conformer": _speech("Wav2Vec2ConformerModel", "Wav2Vec2ConformerConfig", conv_depthwise_kernel_size=7),
    "HuBERT": _speech("HubertModel", "HubertConfig"),
    "HuBERT, classes": _speech("HubertForSequenceClassification", "HubertConfig", classifier_proj_size=16),
    "WavLM": _speech("WavLMModel", "WavLMConfig", num_buckets=16, max_bucket_distance=32),
    "UniSpeech": _speech("UniSpeechModel", "UniSpeechConfig"),
    "UniSpeech-SAT": _speech("UniSpeechSatModel", "UniSpeechSatConfig"),
    "Data2Vec audio": _speech("Data2VecAudioModel", "Data2VecAudioConfig", num_conv_pos_embeddings=5, conv_pos_kernel_size=7),
    "SEW": _speech("SEWModel", "SEWConfig", conv_dim=(16,) * 3, conv_stride=(5, 2, 2), conv_kernel=(10, 3, 3)),
    "SEW-D": _speech("SEWDModel", "SEWDConfig", conv_dim=(16,) * 3, conv_stride=(5, 2, 2), conv_kernel=(10, 3, 3), max_position_embeddings=64, position_buckets=16),
    "AST": Architecture(
        network("ASTForAudioClassification", "ASTConfig", patch_size=8, frequency_stride=8, time_stride=8, max_length=64, num_mel_bins=32, **SMALL),
        (64, 32), _wave, scale=2,
    ),
    "AST, overlapping patches": Architecture(
        network("ASTModel", "ASTConfig", patch_size=8, frequency_stride=4, time_stride=4, max_length=64, num_mel_bins=32, **SMALL),
        (64, 32), _wave, scale=2,
    ),
    "Whisper encoder": Architecture(
        lambda: network("WhisperModel", "WhisperConfig", **WHISPER)().encoder, (8, 128), _features
    ),
    "Whisper": Architecture(network("WhisperModel", "WhisperConfig", **WHISPER), (8, 128), _whisper),
    "EnCodec": Architecture(
        network("EncodecModel", "EncodecConfig", num_filters=4, num_residual_layers=1, upsampling_ratios=[4, 2], hidden_size=8,
                codebook_size=16, codebook_dim=8, num_lstm_layers=1, sampling_rate=8000, target_bandwidths=[8.0]), (1, 512), _wave, _codes,
    ),
    "EnCodec, encoder": Architecture(
        lambda: network("EncodecModel", "EncodecConfig", num_filters=4, num_residual_layers=1, upsampling_ratios=[4, 2], hidden_size=8,
                        codebook_size=16, codebook_dim=8, num_lstm_layers=1)().encoder, (1, 512),
    ),
    "DAC": Architecture(
        network("DacModel", "DacConfig", encoder_hidden_size=4, downsampling_ratios=[2, 4], decoder_hidden_size=16, n_codebooks=2,
                codebook_size=16, codebook_dim=4, upsampling_ratios=[4, 2]), (1, 512), _wave, _codes,
    ),
    "DAC, encoder": Architecture(
        lambda: network("DacModel", "DacConfig", encoder_hidden_size=4, downsampling_ratios=[2, 4], decoder_hidden_size=16, n_codebooks=2,
                        codebook_size=16, codebook_dim=4, upsampling_ratios=[4, 2])().encoder, (1, 512),
    ),
    "Mimi, encoder": Architecture(
        lambda: network("MimiModel", "MimiConfig", num_filters=8, num_residual_layers=1, upsampling_ratios=[4, 2], hidden_size=16,
                        codebook_size=16, codebook_dim=8, vector_quantization_hidden_dimension=8, num_hidden_layers=1, num_attention_heads=2,
                        num_key_value_heads=2, head_dim=8, intermediate_size=32, upsample_groups=1)().encoder, (1, 512),
    ),
}
