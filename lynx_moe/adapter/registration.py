"""Making "LYNX" a PEFT method. The one place that depends on how PEFT keeps its list of methods."""

from __future__ import annotations

from peft.utils import PeftType, register_peft_method


def register() -> None:
    """After this call `get_peft_model`, `PeftModel.from_pretrained` and `PeftConfig` know "LYNX". Repeatable."""
    if "LYNX" not in PeftType.__members__:
        # PEFT refuses names outside its closed enum, and offers no way to add one: add it as the enum itself would.
        member = str.__new__(PeftType, "LYNX")
        member._name_ = member._value_ = "LYNX"
        setattr(PeftType, "LYNX", member)  # noqa: B010  before the map, after which assignment is refused
        PeftType._member_map_["LYNX"] = member
        PeftType._member_names_.append("LYNX")
        PeftType._value2member_map_["LYNX"] = member

    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    if PeftType("LYNX") not in PEFT_TYPE_TO_TUNER_MAPPING:
        from lynx_moe.adapter.config import LynxConfig
        from lynx_moe.adapter.model import LynxModel

        register_peft_method(name="lynx", config_cls=LynxConfig, model_cls=LynxModel)
