# SPDX-License-Identifier: Apache-2.0
"""Profiles of boxes: how a model's firmware must be set up, why, how to change it, and how it is checked.

A profile is a YAML document (``firmware-config/profiles``). It is read strictly: every setting is in it, each with a
value that is known here, and nothing else is; an error names file and field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import yaml

import appliance
from appliance.boundary.errors import BsfgError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.boundary.sections import Section

PROFILE_BYTES: Final = 64 * 1024
ANY: Final = "any"
"""The value of a setting that this model may have as it likes."""


class Setting(StrEnum):
    """What a profile has a word about."""

    SECURE_BOOT = "secure_boot"
    KEYS = "keys"
    PCR7 = "pcr7"
    TPM = "tpm"
    TPM_BANKS = "tpm_banks"
    TPM_KIND = "tpm_kind"
    FIRST_BOOT = "first_boot"
    NETWORK_BOOT = "network_boot"
    USB_BOOT = "usb_boot"
    CSM = "csm"
    SETUP_PASSWORD = "setup_password"  # noqa: S105 - the name of a setting
    WATCHDOG = "watchdog"
    WAKE_ON_LAN = "wake_on_lan"
    IOMMU = "iommu"
    HYPER_THREADING = "hyper_threading"
    CLOCK = "clock"
    AFTER_POWER_LOSS = "after_power_loss"


class How(StrEnum):
    """How a setting is checked."""

    MEASURED = "measured"
    BY_EYE = "by eye"


VALUES: Final[Mapping[Setting, tuple[str, ...]]] = {
    Setting.SECURE_BOOT: ("enabled",),
    Setting.KEYS: ("ours", ANY),
    Setting.PCR7: ("predicted", ANY),
    Setting.TPM: ("2.0",),
    Setting.TPM_BANKS: ("sha256 only", "sha256"),
    Setting.TPM_KIND: ("discrete", "firmware", ANY),
    Setting.FIRST_BOOT: ("this system", ANY),
    Setting.NETWORK_BOOT: ("disabled", ANY),
    Setting.USB_BOOT: ("disabled", ANY),
    Setting.CSM: ("disabled", ANY),
    Setting.SETUP_PASSWORD: ("set", ANY),
    Setting.WATCHDOG: ("present", ANY),
    Setting.WAKE_ON_LAN: ("disabled", ANY),
    Setting.IOMMU: ("enabled", ANY),
    Setting.HYPER_THREADING: ("enabled", "disabled", ANY),
    Setting.CLOCK: ("utc", ANY),
    Setting.AFTER_POWER_LOSS: ("starts", ANY),
}
"""The values that each setting may have."""
ONLY_BY_EYE: Final = frozenset({Setting.TPM_KIND, Setting.AFTER_POWER_LOSS})
"""What a running system cannot see."""


@dataclass(frozen=True, slots=True)
class Demand:
    """One setting of a profile.

    :param value: what it must be. :param why: what goes wrong otherwise. :param change: how to change it, in words of
        this model's setup program. :param question: for whoever stands before the box, where it cannot be measured.
    """

    value: str
    why: str
    change: str
    how: How
    question: str


@dataclass(frozen=True, slots=True)
class Profile:
    """A model's profile.

    :param verified: on what it was tried; empty: a template, never tried on the hardware.
    :param vendor: and ``product``: what the machine says of itself (DMI); empty: nothing is compared.
    """

    name: str
    title: str
    verified: str
    vendor: str
    product: str
    settings: Mapping[Setting, Demand]

    @property
    def template(self) -> bool:
        """Whether nobody has tried it on the hardware yet."""
        return not self.verified

    def fits(self, vendor: str, product: str) -> bool:
        """Whether it was written for a machine that says this of itself."""
        return bool(self.vendor) and (self.vendor, self.product) == (vendor, product)


def profile_folders() -> tuple[Path, ...]:
    """Where profiles are: on a box in the image, on a station in the checkout beside the package."""
    return Path("/usr/lib/bsfg/firmware/profiles"), Path(appliance.__file__).parents[1] / "firmware-config/profiles"


def find_profile(name: str) -> Path:
    """The file of a profile: a path, or the name of one that comes with this version.

    :raises RefusedError: ``bad_profile``: there is none.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        return path
    for folder in profile_folders():
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = ", ".join(sorted({one.stem for folder in profile_folders() for one in folder.glob("*.yaml")}))
    raise RefusedError(Reason.BAD_PROFILE, f"no profile {name!r}; there are: {known or 'none'}")


def shipped_profiles() -> tuple[Profile, ...]:
    """All profiles that come with this version. :raises RefusedError: ``bad_profile``."""
    for folder in profile_folders():
        if found := sorted(folder.glob("*.yaml")):
            return tuple(load_profile(path) for path in found)
    return ()


def load_profile(path: Path) -> Profile:
    """Read a profile. :raises RefusedError: ``bad_profile``, with file and field."""
    try:
        if path.stat().st_size > PROFILE_BYTES:
            raise RefusedError(Reason.BAD_PROFILE, f"{path}: more than {PROFILE_BYTES} bytes")
        return parse_profile(path.read_text("utf-8"), path.stem)
    except (OSError, UnicodeDecodeError) as error:
        raise RefusedError(Reason.BAD_PROFILE, f"{path}: {error}") from error
    except BsfgError as error:
        raise RefusedError(Reason.BAD_PROFILE, f"{path}: {error.detail.removeprefix(f'{path}: ')}") from error


def parse_profile(text: str, name: str) -> Profile:
    """Read a profile's text. :param name: of its file, which it must repeat.

    :raises RefusedError: ``bad_profile`` or ``bad_input``, with the field.
    """
    try:
        _refuse_ambiguous(text)
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RefusedError(Reason.BAD_PROFILE, f"not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise RefusedError(Reason.BAD_PROFILE, "not a mapping of names")
    top = Section("", document)
    if (own := _text(top, "profile")) != name:
        raise RefusedError(Reason.BAD_PROFILE, f"profile is {own!r}, and its file is named {name!r}")
    title, verified = _text(top, "title"), top.take("verified", str)
    machine = top.need("machine")
    vendor, product = machine.take("vendor", str), machine.take("product", str)
    machine.end()
    table = top.need("settings")
    settings = {setting: _demand(setting, table.need(setting)) for setting in Setting}
    table.end()
    top.end()
    return Profile(name, title, verified, vendor, product, settings)


def _demand(setting: Setting, section: Section) -> Demand:
    value, how = section.take("value", str), section.take("check", str)
    if value not in VALUES[setting]:
        raise section.refuse(f"value is one of: {', '.join(VALUES[setting])}")
    if how not in set(How):
        raise section.refuse(f"check is one of: {', '.join(How)}")
    by_eye = value != ANY and (how == How.BY_EYE or setting in ONLY_BY_EYE)
    if setting in ONLY_BY_EYE and how != How.BY_EYE:
        raise section.refuse("check must be 'by eye': a running system cannot see this")
    question = _text(section, "question") if by_eye else section.take("question", str, "")
    demand = Demand(value, _text(section, "why"), _text(section, "change"), How(how), " ".join(question.split()))
    section.end()
    return demand


def _text(section: Section, field: str) -> str:
    text = " ".join(section.take(field, str).split())
    if not text:
        raise section.refuse(f"{field} is empty")
    return text


def _refuse_ambiguous(text: str) -> None:
    """YAML lets a key stand twice, and the last one holds; and it lets parts be repeated by reference."""
    if any(isinstance(token, yaml.AliasToken | yaml.AnchorToken) for token in yaml.scan(text, yaml.SafeLoader)):
        raise RefusedError(Reason.BAD_PROFILE, "anchors and aliases are not taken")
    _refuse_twice(yaml.compose(text, yaml.SafeLoader))


def _refuse_twice(node: Any) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise RefusedError(Reason.BAD_PROFILE, f"line {key.start_mark.line + 1}: {key.value} stands twice")
            seen.add(key.value)
            _refuse_twice(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_twice(value)
