"""VQAScore (Lin et al. 2024): the probability of yes to the question whether an image shows its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from dti_repro.errors import InputError
from dti_repro.metrics.base import ImageMetric, Sample
from dti_repro.metrics.catalogue import loading_weights, weights_folder


class VqaScore(ImageMetric):
    """The probability of `answer` to `question`, in which `{}` is the prompt with the class word; NaN without a prompt.

    checkpoint: a name that transformers takes or local-dir:<folder>, of any model that reads an image and a text. A
    model of an encoder and a decoder (InstructBLIP with FlanT5) gives the geometric mean over the answer's tokens, its
    end included; any other gives the probability that the answer's first token comes next. Both as in t2v-metrics.
    """

    def __init__(
        self,
        checkpoint: str,
        question: Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$", description="a text with one {}")],
        answer: str,
        dtype: Literal["float32", "bfloat16"],
    ) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        super().__init__()
        self.question = question
        with loading_weights(checkpoint):
            place = str(weights_folder(checkpoint) or checkpoint)
            self.processor = AutoProcessor.from_pretrained(place, trust_remote_code=False)
            network = AutoModelForImageTextToText.from_pretrained(
                place, dtype=getattr(torch, dtype), trust_remote_code=False
            )
        self.network = network.eval().requires_grad_(False)
        text = network.config.get_text_config()
        self.has_decoder = bool(text.is_encoder_decoder)
        self.answer = self.processor.tokenizer(answer, add_special_tokens=self.has_decoder)["input_ids"]
        if not self.answer:
            raise InputError(f"answer '{answer}': the tokenizer of {checkpoint} has no token for it")

    @torch.inference_mode()
    def score(self, images: Sequence[Image.Image], samples: Sequence[Sample]) -> Tensor:
        pairs = zip(images, samples, strict=True)
        return torch.tensor([self._probability(i, s.text) if s.text else float("nan") for i, s in pairs])

    def _probability(self, image: Image.Image, text: str) -> float:
        text = self.question.replace("{}", text)
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": text}]
            chat = [{"role": "user", "content": content}]
            text = self.processor.apply_chat_template(chat, add_generation_prompt=True)
        inputs = self.processor(images=[image], text=[text], return_tensors="pt")
        inputs = inputs.to(self.network.device, self.network.dtype)
        answer = torch.tensor(self.answer, device=self.network.device)
        if self.has_decoder:
            logits = self.network(**inputs, labels=answer[None]).logits[0]
        else:
            answer, logits = answer[:1], self.network(**inputs).logits[0, -1:]
        of_answer = logits.float().log_softmax(dim=-1).gather(1, answer[:, None])
        return of_answer.mean().exp().item()
