"""TRL's SFTTrainer with `peft_config=LynxConfig(...)` trains a vision-language model on pictures and text."""

import torch
from datasets import Dataset
from peft import PeftModel
from PIL import Image
from trl import SFTConfig, SFTTrainer

from lynx_moe.adapter import LynxConfig, lynx_layers
from tests.tiny import tiny_llava_with_processor

COLORS = {"red": (255, 0, 0), "blue": (0, 0, 255)}


def rows():
    """Two pictures whose only difference is the answer."""
    return Dataset.from_list(
        [
            {
                "images": [Image.new("RGB", (32, 32), color)],
                "prompt": [{"role": "user", "content": "What colour is it?"}],
                "completion": [{"role": "assistant", "content": name}],
            }
            for name, color in COLORS.items()
        ]
        * 4
    )


def test_sft_trainer_trains_new_experts_only_and_what_it_saves_loads_again(tmp_path):
    base, processor = tiny_llava_with_processor()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    arguments = SFTConfig(
        output_dir=str(tmp_path),
        max_steps=12,
        per_device_train_batch_size=4,
        learning_rate=2e-2,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        bf16=False,
        max_length=None,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        model=base,
        args=arguments,
        train_dataset=rows(),
        processing_class=processor,
        peft_config=LynxConfig(layers="all", prompt_gate="on"),
    )
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert len(losses) == 12 and sum(losses[-3:]) < 0.8 * sum(losses[:3]), losses

    after = {name.replace(".base_layer.", "."): t for name, t in base.state_dict().items() if ".lynx_" not in name}
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    new = [layer.lynx_branch["default"].down_EDF for layer in lynx_layers(trainer.model).values()]
    assert len(new) == 4 and all(down.any() for down in new), "the output projections started at zero"

    trainer.save_model(tmp_path / "adapter")
    again = PeftModel.from_pretrained(tiny_llava_with_processor()[0], tmp_path / "adapter").eval()
    batch = {k: v for k, v in next(iter(trainer.get_train_dataloader())).items() if k != "labels"}
    with torch.no_grad():
        live = trainer.model.eval()(**batch).logits
        assert torch.equal(again(**batch).logits, live)
        with again.disable_adapter():
            assert not torch.equal(again(**batch).logits, live)
