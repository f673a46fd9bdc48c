/** What another pageserver says of itself over libpq: who it is, its tenants, their branches. Outside data, all of it. */
import { ErrorCode, NeonError } from "../base/errors.ts";
import { type TenantId, isId, parseTenantId } from "../base/ids.ts";
import type { Lineage } from "../base/lineage.ts";
import type { Lsn } from "../base/lsn.ts";
import type { LibpqClient } from "../pgwire/libpq-client.ts";
import {
  type JsonObject,
  asObject,
  lsnField,
  optionalLineageField,
  optionalNumberField,
  optionalTextField,
  textField,
} from "./json.ts";
import { type LibpqTarget, connectOrigin, formatTarget } from "./libpq.ts";

/** The protocol of the commands that we use. */
const PROTOCOL_VERSION = 1;
/** Far more than any pageserver has; what is beyond is not looked at. */
const BRANCHES_MAX = 100_000;

export interface RemoteIdentity {
  /** Of the pageserver program. */
  readonly version: string;
}

export interface RemoteBranch {
  readonly name: string;
  readonly lastRecordLsn: Lsn;
  /** Name of the branch that it was forked from, and where; null for a root. */
  readonly ancestor: { readonly name: string | null; readonly lsn: Lsn } | null;
  readonly lineage: Lineage | undefined;
  /** `active`, `stopped` or `broken`. */
  readonly state: string;
}

export interface RemoteTenant {
  readonly tenantId: TenantId;
  readonly pgVersion: number | null;
  readonly branches: readonly RemoteBranch[];
}

/** Throws `unreachable` where no pageserver answers, or one of another protocol. */
export async function identifyOrigin(target: LibpqTarget, signal?: AbortSignal): Promise<RemoteIdentity> {
  await using client = await connectOrigin(target, signal);
  // Awaited here: the connection must last as long.
  return await identify(client, target);
}

/** The tenants that we may see, or the one that is asked for, with their branches. */
export async function listRemote(
  target: LibpqTarget,
  options: { readonly tenantId?: TenantId | undefined; readonly signal?: AbortSignal },
): Promise<RemoteTenant[]> {
  await using client = await connectOrigin(target, options.signal);
  await identify(client, target);
  const tenants: RemoteTenant[] = [];
  for (const value of await jsonRows(client, "tenant_list", target)) {
    const object = asObject(value, "tenant");
    const id = textField(object, "tenant_id");
    if (!isId(id)) throw notAPageserver(target);
    const tenantId = parseTenantId(id);
    if (options.tenantId !== undefined && tenantId !== options.tenantId) continue;
    const broken = optionalTextField(object, "state") === "broken";
    const branches = broken ? [] : await jsonRows(client, `branch_list ${tenantId}`, target);
    tenants.push({
      tenantId,
      pgVersion: optionalNumberField(object, "pg_version"),
      branches: remoteBranchesOf(branches),
    });
  }
  return tenants;
}

/** Throws `unreachable` for what is no pageserver, or one of another protocol. */
export async function identify(client: LibpqClient, target: LibpqTarget): Promise<RemoteIdentity> {
  let answer;
  try {
    answer = await client.query("identify_system");
  } catch (error) {
    // A Postgres, or another program that speaks its protocol, does not know the command.
    if (error instanceof NeonError && error.code !== ErrorCode.Unreachable)
      throw notAPageserver(target, error);
    throw error;
  }
  const column = (name: string): string | null | undefined => answer.rows[0]?.[answer.columns.indexOf(name)];
  const protocol = column("protocol_version");
  const version = column("version");
  if (typeof protocol !== "string" || typeof version !== "string") throw notAPageserver(target);
  if (Number(protocol) !== PROTOCOL_VERSION) {
    throw new NeonError(
      ErrorCode.Unsupported,
      `${formatTarget(target)} speaks protocol ${protocol.slice(0, 20)}, this program ${PROTOCOL_VERSION}`,
      { hint: "Use the same version of neon on both sides." },
    );
  }
  return { version: version.slice(0, 100) };
}

/** The answer of a command that is one column of JSON. */
async function jsonRows(
  client: LibpqClient,
  command: string,
  target: LibpqTarget,
): Promise<readonly unknown[]> {
  const { rows } = await client.query(command);
  let value: unknown;
  try {
    value = JSON.parse(rows[0]?.[0] ?? "");
  } catch (error) {
    throw notAPageserver(target, error);
  }
  if (!Array.isArray(value)) throw notAPageserver(target);
  return value;
}

/** For a server that speaks the protocol, but does not know what pageservers know. */
export function notAPageserver(target: LibpqTarget, cause?: unknown): NeonError {
  return new NeonError(ErrorCode.Unreachable, `what answers at ${formatTarget(target)} is not a pageserver`, {
    hint: "Check host and port: it is the pageserver's libpq port that is wanted (64000 unless it was changed), not that of a Postgres.",
    cause,
  });
}

function branchOf(object: JsonObject): RemoteBranch {
  const ancestor = object["ancestor"];
  return {
    name: textField(object, "name"),
    lastRecordLsn: lsnField(object, "last_record_lsn"),
    ancestor: ancestor === null || ancestor === undefined ? null : ancestorOf(asObject(ancestor, "ancestor")),
    lineage: optionalLineageField(object, "lineage"),
    state: optionalTextField(object, "state") ?? "active",
  };
}

/** The branches in a JSON answer. */
export function remoteBranchesOf(values: readonly unknown[]): RemoteBranch[] {
  return values.slice(0, BRANCHES_MAX).map((branch) => branchOf(asObject(branch, "branch")));
}

function ancestorOf(object: JsonObject): { name: string | null; lsn: Lsn } {
  return { name: optionalTextField(object, "name"), lsn: lsnField(object, "lsn") };
}
