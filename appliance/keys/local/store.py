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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from appliance.boundary.errors import RefusedError, UnavailableError
from appliance.boundary.names import Category, ProducerId, ZoneId
from appliance.boundary.reasons import Reason
from appliance.factlog.natskeys import KeyKind, NatsKey, UserCredentials
from appliance.keys.files import PRIVATE, locked, write_atomically
from appliance.keys.local.applications import (
    APPLIANCE_USERS,
    RESERVED,
    Application,
    Applications,
    Issued,
    Origin,
    Role,
)
from appliance.keys.local.authority import LocalAuthority
from appliance.keys.local.natsjwt import account_jwt, operator_jwt, user_jwt
from appliance.keys.local.root import LocalRoot
from appliance.keys.local.site import TOKEN_BYTES, SiteApplication, site_account

LONGEST_LIFE_S: Final = 10 * 366 * 86_400
"""No credential may be good for longer, unless it never expires."""
FACTS: Final = "$facts"
SYSTEM: Final = "$system"
"""The accounts that no application has; no application can have such a name."""
_APPLICATION: Final = "application"
_SIGNER: Final = "signer"


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


@dataclass(frozen=True, slots=True)
class Reach:
    """How an application comes into the broker: public keys of its account, and of what signs its users."""

    account: str
    signer: str


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
        return self._account_jwt(self.account(name).public, label, claims)

    def reach(self, entry: Application) -> Reach | None:
        """How an application comes into the broker; ``None``: it does not."""
        if not entry.issued:
            return None
        if entry.origin is Origin.BOX:
            account = self.account(entry.name)
            return Reach(account.public, account.signer.public)
        signer = entry.issued[-1].public
        return Reach(site_account(entry.name, signer), signer) if signer else None

    def reach_jwt(self, reach: Reach, name: ProducerId, claims: Mapping[str, object]) -> str:
        """The JWT of an application's account, signed by the operator."""
        return self._account_jwt(reach.account, f"local {name}", claims)

    def _account_jwt(self, public: str, label: str, claims: Mapping[str, object]) -> str:
        return account_jwt(self.operator, public, label, self.applications().created_at, claims)

    # -- changes ---------------------------------------------------------------------------------------------------

    def new(
        self, name: ProducerId, role: Role, categories: frozenset[Category] | None = None, *, life_s: int | None = None
    ) -> Handed:
        """Issue the first credential of a local application, or the first after all of its were revoked.

        :param life_s: seconds that it is good for; ``None``: it does not expire.
        :raises RefusedError: ``application_exists``; ``bad_input``: a name of the appliance, a bad life, categories
            for who does not produce.
        """
        if name in RESERVED or role is Role.APPLIANCE:
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
            known = _made_here(_known(entries, name))
            handed = self._issue(known if keep_old else _revoke(known, self._now()), life_s)
            entries[name] = handed.application
        self.hand_out()
        return handed

    def revoke(self, name: ProducerId) -> Application:
        """Make all credentials of an application worthless; of the appliance's own, new ones are handed out at once.

        :raises RefusedError: ``unknown_application``.
        """
        with self._change() as entries:
            entries[name] = _revoke(_made_here(_known(entries, name)), self._now())
        self.hand_out()
        return self.applications().entries[name]

    def take_site(self, wanted: Sequence[SiteApplication]) -> list[str]:
        """Let in the applications that the site configuration names, with what it names, and no others of a site.

        What was made here is untouched, whatever the site says.

        :returns: which of them were not taken, each with why.
        """
        with self._change() as entries:
            refused = [text for each in wanted if (text := _in_the_way(entries, each))]
            taken = {each.name: each for each in wanted if not _in_the_way(entries, each)}
            for name, known in list(entries.items()):
                if known.origin is Origin.SITE and name not in taken:
                    del entries[name]
                    if known.revoked:  # those of the box's own, of before, stay revoked
                        entries[name] = replace(known, issued=(), origin=Origin.BOX)
            for name, each in taken.items():
                entries[name] = _of_site(each, entries.get(name), int(self._now()))
        self.hand_out()
        return refused

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
        token = secrets.token_urlsafe(TOKEN_BYTES) if application.produces else None
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


def _made_here(application: Application) -> Application:
    if application.origin is Origin.SITE:
        detail = f"{application.name!r} stands in the site configuration; change it there"
        raise RefusedError(Reason.BAD_INPUT, detail)
    return application


def _in_the_way(entries: Mapping[ProducerId, Application], wanted: SiteApplication) -> str:
    """Why an application of the site cannot be taken; empty: nothing is in its way."""
    known = entries.get(wanted.name)
    if wanted.name in RESERVED:
        return f"{wanted.name}: a user of the appliance itself"
    if known is not None and known.origin is Origin.BOX and known.issued:
        return f"{wanted.name}: an application of this name was made on the box, and has credentials"
    own = [entry for entry in entries.values() if entry.origin is Origin.BOX]
    if wanted.token is not None and any(wanted.token == issued.token for entry in own for issued in entry.issued):
        return f"{wanted.name}: its token is that of another application"
    return ""


def _of_site(wanted: SiteApplication, known: Application | None, now: int) -> Application:
    """What is kept of it; since when is kept as long as nothing changes."""
    revoked = {} if known is None else known.revoked
    issued = Issued(wanted.signer, now, None, wanted.token)
    made = Application(wanted.name, wanted.role, wanted.categories, (issued,), revoked, Origin.SITE)
    if known is not None and known.issued and replace(made, issued=known.issued) == known:
        before = known.issued[-1]
        if (before.public, before.token) == (issued.public, issued.token):
            return known
    return made


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
