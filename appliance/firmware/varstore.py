# SPDX-License-Identifier: Apache-2.0
"""Variable stores of OVMF, the firmware of virtual machines, with our keys in them: no enrolment boot is needed."""

from __future__ import annotations

import logging
from pathlib import Path

from appliance.boundary.errors import RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.firmware.efi import KeyVariable
from appliance.firmware.keys import SecureBootKeys


def make_vars(template: Path, keys: SecureBootKeys, out: Path, *, secure_boot: bool = True) -> None:
    """Write a store that has PK, KEK, db and dbx of these keys, and Secure Boot switched on.

    :param template: an empty store as Debian's package ovmf has it (``OVMF_VARS_4M.fd``); it is only read.
    :param secure_boot: off: the keys are enrolled, and the firmware does not enforce them.
    :raises RefusedError: ``firmware_keys``: the template is no such store.
    :raises UnavailableError: ``firmware_keys``: the library virt-firmware is not installed.
    """
    try:
        from virt.firmware.efi.efivar import EfiVar  # type: ignore[import-untyped]
        from virt.firmware.varstore.edk2 import Edk2VarStore  # type: ignore[import-untyped]
    except ImportError as error:
        raise UnavailableError(Reason.FIRMWARE_KEYS, f"needs the Python package virt-firmware: {error}") from error
    # The library reports what it does, and its errors, through the root logger, and ends the process.
    level = logging.root.level
    logging.root.setLevel(logging.CRITICAL)
    try:
        store = Edk2VarStore(template)
        variables = store.get_varlist()
        for name in KeyVariable:
            variable = EfiVar(str(name), data=keys.contents[name])
            variable.time = keys.when
            variables[str(name)] = variable
        variables.set_bool("SecureBootEnable", secure_boot)
        variables.set_bool("CustomMode", False)
        store.write_varstore(out, variables)
    except (OSError, SystemExit) as error:
        raise RefusedError(Reason.FIRMWARE_KEYS, f"{template}: no variable store of OVMF ({error})") from error
    finally:
        logging.root.setLevel(level)
