/**
 * Users of the libpq service beside `neon`, whose password is the auth_token. Kept in users.json in the pageserver's
 * directory (format: docs/formats/users.md): names, rights, and keys from which no password can be computed.
 */
import { ErrorCode, NeonError, corrupt } from "../../base/errors.ts";
import { type TenantId, isId } from "../../base/ids.ts";
import type { Clock, Files } from "../../base/seams.ts";
import { type ScramVerifier, formatScramVerifier, parseScramVerifier } from "../../pgwire/scram-server.ts";
import { DEFAULT_USER } from "../../pgwire/uri.ts";
import { readJsonFile, writeJsonFile } from "../timeline/json-file.ts";
import { SerialQueue } from "../timeline/serial-queue.ts";
import type { Identity } from "./identity.ts";

const MAGIC = "neon-users";
const VERSION = 1;
const USERS_MAX = 10_000;
const TENANTS_MAX = 1000;
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,62}$/;

export interface User {
  readonly name: string;
  readonly verifier: ScramVerifier;
  /** `all`, or those that it may work with and create. */
  readonly tenants: "all" | ReadonlySet<TenantId>;
  /** Milliseconds since 1970. */
  readonly createdAt: number;
}

export class Users {
  private readonly path: string;
  private readonly files: Files;
  private readonly clock: Clock;
  private readonly changes = new SerialQueue();
  private byName: ReadonlyMap<string, User> = new Map();

  constructor(path: string, dependencies: { files: Files; clock: Clock }) {
    this.path = path;
    this.files = dependencies.files;
    this.clock = dependencies.clock;
  }

  /** Reads the file. Throws `corrupt` for one that is damaged: nobody is let in by a guess. */
  async open(): Promise<void> {
    const file = await readJsonFile(this.files, this.path, MAGIC, VERSION);
    if (!file) return;
    const users = new Map<string, User>();
    for (const fields of file.fields.objects("users")) {
      const name = fields.text("name");
      const verifier = parseScramVerifier(fields.text("verifier"));
      if (!verifier) throw corrupt(`${this.path}: user "${name}" has no usable keys`);
      const ids = fields.has("tenants") ? parseTenants(fields.texts("tenants")) : "all";
      users.set(name, { name, verifier, tenants: ids, createdAt: fields.time("created_at") });
    }
    this.byName = users;
  }

  /** Sorted by name. */
  list(): User[] {
    return [...this.byName.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  find(name: string): { verifier: ScramVerifier; identity: Identity } | undefined {
    const user = this.byName.get(name);
    return user && { verifier: user.verifier, identity: { user: name, tenants: user.tenants } };
  }

  /** Durable when it returns. Throws `usage` for a name or keys that cannot be, `exists`. */
  async add(request: {
    name: string;
    verifier: string;
    tenants: readonly string[] | undefined;
  }): Promise<User> {
    const { name } = request;
    if (!NAME.test(name)) {
      throw new NeonError(ErrorCode.Usage, `"${name.slice(0, 70)}" is no name of a user`, {
        hint: "Up to 63 letters, digits and _ . @ -, not beginning with . @ or -.",
      });
    }
    if (name === DEFAULT_USER) {
      throw new NeonError(ErrorCode.Exists, `user "${name}" exists already: its password is the auth_token`, {
        hint: "Choose another name.",
      });
    }
    const verifier = parseScramVerifier(request.verifier);
    if (!verifier) throw new NeonError(ErrorCode.Usage, "the verifier is none of SCRAM-SHA-256");
    const tenants = request.tenants === undefined ? "all" : parseTenants(request.tenants);
    return this.changes.run(async () => {
      if (this.byName.has(name)) {
        throw new NeonError(ErrorCode.Exists, `user "${name}" exists already`, {
          hint: `To change the password, remove it first: neon pageserver user remove ${name}`,
        });
      }
      if (this.byName.size >= USERS_MAX) {
        throw new NeonError(ErrorCode.Resource, `there are ${USERS_MAX} users already`);
      }
      const user: User = { name, verifier, tenants, createdAt: this.clock.now() };
      await this.write(new Map(this.byName).set(name, user));
      return user;
    });
  }

  /** Durable when it returns; connections of the user go on. Throws `not_found`. */
  async remove(name: string): Promise<void> {
    await this.changes.run(async () => {
      const users = new Map(this.byName);
      if (!users.delete(name)) {
        throw new NeonError(ErrorCode.NotFound, `there is no user "${name}"`, {
          hint: "`neon pageserver user list` shows those that exist.",
        });
      }
      await this.write(users);
    });
  }

  private async write(users: ReadonlyMap<string, User>): Promise<void> {
    await writeJsonFile(this.files, this.path, MAGIC, VERSION, {
      users: [...users.values()].map((user) => ({
        name: user.name,
        verifier: formatScramVerifier(user.verifier),
        tenants: user.tenants === "all" ? null : [...user.tenants],
        created_at: new Date(user.createdAt).toISOString(),
      })),
    });
    this.byName = users;
  }
}

function parseTenants(ids: readonly string[]): ReadonlySet<TenantId> {
  if (ids.length > TENANTS_MAX) {
    throw new NeonError(ErrorCode.Usage, `a user may have ${TENANTS_MAX} tenants, or all`);
  }
  const tenants = new Set<TenantId>();
  for (const id of ids) {
    const lower = id.toLowerCase();
    if (!isId(lower)) throw new NeonError(ErrorCode.Usage, `"${id.slice(0, 40)}" is no tenant id`);
    tenants.add(lower as TenantId);
  }
  return tenants;
}
