# SPDX-License-Identifier: Apache-2.0
"""The folder of a zone's local keys: who has which credential, and everything that follows from it.

::

    local/
      root.key            the one secret; on a box it is sealed and lies elsewhere
      applications.json   who has which credential; no secret
      tokens.json         SHA-256 of HTTP tokens, for the node; follows from applications.json
      agent.creds         credentials of the appliance's own users of the broker
      sys.creds
      ca.pem              certificate of the local CA
      server.pem          key and certificate of the plant-side listeners

Every change is one replaced document, so it may be killed anywhere; what follows from it is written anew by
:meth:`LocalKeys.hand_out`. What the broker is told follows from :meth:`LocalKeys.accounts`.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from appliance.boundary.errors import RefusedError, UnavailableError
from appliance.boundary.names import Category, ProducerId, ZoneId
from appliance.boundary.reasons import Reason
from appliance.factlog.natskeys import KeyKind, NatsKey, UserCredentials
from appliance.keys.files import PRIVATE, locked, write_atomically
from appliance.keys.local.applications import APPLIANCE_USERS, Application, Applications, Issued, Role
from appliance.keys.local.authority import LocalAuthority
from appliance.keys.local.natsjwt import account_jwt, operator_jwt, user_jwt
from appliance.keys.local.root import LocalRoot

LONGEST_LIFE_S: Final = 10 * 366 * 86_400
"""No credential may be good for longer, unless it never expires."""
FACTS: Final = "$facts"
SYSTEM: Final = "$system"
"""The accounts that no application has; no application can have such a name."""
_APPLICATION: Final = "application"
_SIGNER: Final = "signer"
_TOKEN_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Handed:
    """What an application is given, once; nothing here keeps it.

    :param token: for AppendFact over HTTP; only who produces has one.
    """

    application: Application
    credentials: UserCredentials
    token: str | None = field(repr=False)

    def write(self, folder: Path) -> list[Path]:
        """Write ``NAME.creds`` and, for who produces, ``NAME.token``; their owner alone can read them."""
        name = self.application.name
        files = {folder / f"{name}.creds": self.credentials.text()}
        if self.token is not None:
            files[folder / f"{name}.token"] = f"{self.token}\n"
        for path, text in files.items():
            write_atomically(path, text.encode(), PRIVATE)
        return list(files)


@dataclass(frozen=True, slots=True)
class Account:
    """An account of the broker: its public key, and that of the key which signs its users."""

    public: str
    signer: NatsKey


class LocalKeys:
    """The local keys of a zone. Blocking; made by :meth:`open`."""

    def __init__(self, folder: Path, root_file: Path, root: LocalRoot, now: Callable[[], float]) -> None:
        self.folder = folder
        self._root_file, self._root, self._now = root_file, root, now
        self.operator = root.nats_key(KeyKind.OPERATOR)

    @classmethod
    def open(
        cls, folder: Path, zone: ZoneId, *, root_file: Path | None = None, now: Callable[[], float] = time.time
    ) -> LocalKeys:
        """The keys in a folder; what is not there is made.

        :param root_file: where the secret lies, if not in the folder; then it must be there.
        :param now: Unix seconds; when something is issued, and what is over.
        :raises UnavailableError: ``bad_local_keys``: a file cannot be read, is of another zone, or the secret is lost.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = root_file or folder / "root.key"
        with locked(folder):
            document = folder / "applications.json"
            try:
                # Without the secret everything handed out would be worthless: a new one may only begin a new folder.
                fresh = root_file is None and not document.exists()
                root = LocalRoot.ensure(path) if fresh else LocalRoot.load(path)
            except FileNotFoundError:
                raise UnavailableError(Reason.BAD_LOCAL_KEYS, f"{path} is not there") from None
            keys = cls(folder, path, root, now)
            if not document.exists():
                keys._write(Applications(zone, int(now()), {}))
            if keys.applications().zone != zone:
                raise UnavailableError(Reason.BAD_LOCAL_KEYS, f"{folder} is of zone {keys.applications().zone}")
        keys.hand_out()
        return keys

    def applications(self) -> Applications:
        """Who has which credential now. :raises UnavailableError: ``bad_local_keys``."""
        path = self.folder / "applications.json"
        try:
            return Applications.parse(path.read_bytes())
        except (OSError, RefusedError) as error:
            raise UnavailableError(Reason.BAD_LOCAL_KEYS, f"{path}: {error}") from error

    def authority(self) -> LocalAuthority:
        """The local CA. :raises UnavailableError: ``bad_local_keys``."""
        return LocalAuthority.open(self.folder, self.applications().zone, self._root)

    # -- what the broker is told -----------------------------------------------------------------------------------

    def account(self, name: str) -> Account:
        """The account of a local application; of the facts and of the system by :data:`FACTS` and :data:`SYSTEM`."""
        names = (name,) if name in (FACTS, SYSTEM) else (_APPLICATION, name)
        public = self._root.nats_key(KeyKind.ACCOUNT, *names).public
        return Account(public, self._root.nats_key(KeyKind.ACCOUNT, _SIGNER, *names))

    def operator_jwt(self) -> str:
        """The operator's JWT."""
        at = self.applications()
        return operator_jwt(self.operator, f"{at.zone}-local", self.account(SYSTEM).public, at.created_at)

    def account_jwt(self, name: str, label: str, claims: Mapping[str, object]) -> str:
        """The JWT of the account of :meth:`account`, signed by the operator.

        :param label: for people. :param claims: see :mod:`appliance.brokers.accounts`.
        """
        created = self.applications().created_at
        return account_jwt(self.operator, self.account(name).public, label, created, claims)

    # -- changes ---------------------------------------------------------------------------------------------------

    def new(
        self, name: ProducerId, role: Role, categories: frozenset[Category] | None = None, *, life_s: int | None = None
    ) -> Handed:
        """Issue the first credential of a local application, or the first after all of its were revoked.

        :param life_s: seconds that it is good for; ``None``: it does not expire.
        :raises RefusedError: ``application_exists``; ``bad_input``: a name of the appliance, a bad life, categories
            for who does not produce.
        """
        if name in APPLIANCE_USERS or role is Role.APPLIANCE:
            raise RefusedError(Reason.BAD_INPUT, f"{name!r} is a user of the appliance itself")
        if role is Role.CONSUMER and categories is not None:
            raise RefusedError(Reason.BAD_INPUT, "categories are for who produces; a consumer reads every category")
        if categories is not None and not categories:
            raise RefusedError(Reason.BAD_INPUT, "it may produce no category at all")
        with self._change() as entries:
            known = entries.get(name)
            if known is not None and known.issued:
                raise RefusedError(Reason.APPLICATION_EXISTS, name)
            revoked = {} if known is None else known.revoked
            handed = self._issue(Application(name, role, categories, (), revoked), life_s)
            entries[name] = handed.application
        self.hand_out()
        return handed

    def ensure(self, name: ProducerId, role: Role, folder: Path) -> None:
        """Issue a credential into a folder (``NAME.creds`` and ``NAME.token``), unless a good one lies there.

        One that was revoked stays revoked.

        :raises RefusedError: ``application_exists``: with another role.
        """
        folder.mkdir(mode=0o700, exist_ok=True)
        with self._change() as entries:
            known = entries.get(name)
            if known is not None and known.role is not role:
                raise RefusedError(Reason.APPLICATION_EXISTS, name)
            if known is not None and (not known.issued or _lies_there(folder, known)):
                return
            # The files come first: credentials that the document does not know are replaced next time.
            handed = self._issue(Application(name, role) if known is None else _revoke(known, self._now()), None)
            handed.write(folder)
            entries[name] = handed.application
        self.hand_out()

    def rotate(self, name: ProducerId, *, life_s: int | None = None, keep_old: bool = False) -> Handed:
        """Issue another credential to an application.

        :param keep_old: leave those it has good as well, until the next rotation or revocation.
        :raises RefusedError: ``unknown_application``, ``bad_input``.
        """
        if name in APPLIANCE_USERS:
            raise RefusedError(Reason.BAD_INPUT, f"{name!r} is a user of the appliance itself")
        with self._change() as entries:
            known = _known(entries, name)
            handed = self._issue(known if keep_old else _revoke(known, self._now()), life_s)
            entries[name] = handed.application
        self.hand_out()
        return handed

    def revoke(self, name: ProducerId) -> Application:
        """Make all credentials of an application worthless; of the appliance's own, new ones are handed out at once.

        :raises RefusedError: ``unknown_application``.
        """
        with self._change() as entries:
            entries[name] = _revoke(_known(entries, name), self._now())
        self.hand_out()
        return self.applications().entries[name]

    def hand_out(self) -> None:
        """Write what follows from the document: the table of tokens, and the appliance's own credentials."""
        for name in APPLIANCE_USERS:
            path = self.folder / f"{name}.creds"
            with self._change() as entries:
                known = entries.get(name, Application(name, Role.APPLIANCE))
                if known.issued and path.exists() and _holds(path, known.issued[-1].public):
                    continue
                # The file comes first: a key that the document does not know is good too, and is replaced next time.
                handed = self._issue(_revoke(known, self._now()), None)
                write_atomically(path, handed.credentials.text().encode(), PRIVATE)
                entries[name] = handed.application
        with locked(self.folder):
            text = json.dumps(_tokens(self.applications()), indent=1, sort_keys=True).encode() + b"\n"
            path = self.folder / "tokens.json"
            if not path.exists() or path.read_bytes() != text:
                write_atomically(path, text, PRIVATE)

    # -- parts -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _change(self) -> Iterator[dict[ProducerId, Application]]:
        """The entries, to be changed; written when the block ends well."""
        with locked(self.folder):
            before = self.applications()
            entries = dict(before.entries)
            yield entries
            if entries != before.entries:
                self._write(replace(before, entries=entries))

    def _write(self, applications: Applications) -> None:
        write_atomically(self.folder / "applications.json", applications.render(), PRIVATE)

    def _issue(self, application: Application, life_s: int | None) -> Handed:
        if life_s is not None and not 0 < life_s <= LONGEST_LIFE_S:
            raise RefusedError(Reason.BAD_INPUT, f"a credential lives for 1 to {LONGEST_LIFE_S} seconds")
        now = int(self._now())
        expires = None if life_s is None else now + life_s
        key, account = NatsKey.generate(KeyKind.USER), self.account(_account_name(application.name))
        jwt = user_jwt(account.signer, account.public, key.public, application.name, now, expires)
        token = secrets.token_urlsafe(_TOKEN_BYTES) if application.produces else None
        digest = hashlib.sha256(token.encode()).digest() if token else None
        issued = Issued(key.public, now, expires, digest)
        application = replace(application, issued=(*application.issued, issued))
        return Handed(application, UserCredentials(jwt, key), token)


def _account_name(user: ProducerId) -> str:
    if user in APPLIANCE_USERS:
        return FACTS if user == APPLIANCE_USERS[0] else SYSTEM
    return user


def _known(entries: Mapping[ProducerId, Application], name: ProducerId) -> Application:
    if name not in entries:
        raise RefusedError(Reason.UNKNOWN_APPLICATION, name)
    return entries[name]


def _revoke(application: Application, now: float) -> Application:
    ended = {issued.public: max(int(now), issued.issued_at) for issued in application.issued}
    return replace(application, issued=(), revoked={**application.revoked, **ended})


def _holds(path: Path, public: str) -> bool:
    try:
        return UserCredentials.load(path).key.public == public
    except RefusedError:
        return False


def _lies_there(folder: Path, known: Application) -> bool:
    """Whether a folder holds credentials of an application that are good, as :meth:`Handed.write` wrote them."""
    try:
        public = UserCredentials.load(folder / f"{known.name}.creds").key.public
        token = (folder / f"{known.name}.token").read_bytes().strip() if known.produces else None
    except (RefusedError, OSError):
        return False
    digest = None if token is None else hashlib.sha256(token).digest()
    return any(issued.public == public and issued.token == digest for issued in known.issued)


def _tokens(applications: Applications) -> dict[str, object]:
    table: dict[str, object] = {}
    for entry in applications.local():
        for issued in entry.issued:
            if issued.token is not None:
                grant: dict[str, object] = {"producer": entry.name}
                if entry.categories is not None:
                    grant["categories"] = sorted(entry.categories)
                if issued.expires is not None:
                    grant["expires"] = issued.expires
                table[issued.token.hex()] = grant
    return table
