/**
 * The compute that a receiver follows: how to connect to it, and how to make sure that it is the one that was meant.
 * Any Postgres with the same system identifier would stream WAL at the same LSNs; only the writer epoch in its
 * configuration tells one from another.
 */
import { ErrorCode, NeonError, corrupt } from "../../base/errors.ts";
import type { WriterEpoch } from "../../base/ids.ts";
import { type Lsn, formatLsn, parseLsn } from "../../base/lsn.ts";
import { PgConnection, type QueryResult, type ServerAddress } from "../../pgwire/client.ts";
import { ServerError, SqlState } from "../../pgwire/errors.ts";

/** Time for connecting and logging in. */
const CONNECT_TIMEOUT_MS = 5_000;
/** The name that `synchronous_standby_names` of a compute refers to. */
export const APPLICATION_NAME = "pageserver";
/** The setting that carries the writer epoch in a compute's configuration. */
export const EPOCH_SETTING = "neon.writer_epoch";

export interface ComputeSource extends ServerAddress {
  readonly user: string;
  readonly password?: string | undefined;
}

export interface ComputeIdentity {
  readonly systemId: bigint;
  readonly epoch: WriterEpoch;
  /** Postgres' timeline number, 1 for every compute that we make. */
  readonly timelineNumber: number;
}

/** Every connection speaks the replication commands; one for a database speaks SQL, too. */
export type ConnectionMode = "physical" | "database";

/** What users set for a server, a database or a role is meant for their sessions, not for ours. */
const SESSION_OPTIONS = [
  "statement_timeout=0",
  "lock_timeout=0",
  "idle_in_transaction_session_timeout=0",
  "default_transaction_read_only=off",
  "role=none",
]
  .map((setting) => `-c ${setting}`)
  .join(" ");

export async function connectToCompute(
  source: ComputeSource,
  mode: ConnectionMode,
  signal?: AbortSignal,
): Promise<PgConnection> {
  const connect = (replication: Record<string, string>): Promise<PgConnection> =>
    PgConnection.connect({
      address: source,
      credentials: source,
      parameters: {
        ...replication,
        application_name: APPLICATION_NAME,
        client_encoding: "UTF8",
        options: SESSION_OPTIONS,
      },
      timeoutMs: CONNECT_TIMEOUT_MS,
      signal,
    });
  if (mode === "physical") return connect({ replication: "true" });
  try {
    return await connect({ replication: "database", database: "postgres" });
  } catch (error) {
    // It is an ordinary database, which may be dropped; this one is what every new database is made from.
    const missing = error instanceof ServerError && error.sqlState === SqlState.InvalidCatalogName;
    if (!missing) throw error;
    return connect({ replication: "database", database: "template1" });
  }
}

/** Checks that this is our compute; returns the end of its flushed WAL. Throws `conflict` if it is another. */
export async function verifyIdentity(connection: PgConnection, wanted: ComputeIdentity): Promise<Lsn> {
  const [systemId, timeline, flushText] = singleRow(await connection.query("IDENTIFY_SYSTEM"));
  if (systemId !== wanted.systemId.toString()) {
    throw new NeonError(
      ErrorCode.Conflict,
      `the compute belongs to system ${systemId}, not ${wanted.systemId}`,
      {
        data: { expected: wanted.systemId.toString(), found: systemId ?? null },
      },
    );
  }
  if (timeline !== String(wanted.timelineNumber)) {
    throw new NeonError(
      ErrorCode.Conflict,
      `the compute is on timeline ${timeline}, not ${wanted.timelineNumber}`,
      {
        hint: "It was promoted outside of neon. Create a new compute for the branch.",
        data: { expected: wanted.timelineNumber, found: timeline ?? null },
      },
    );
  }
  checkEpoch(await readEpoch(connection), wanted.epoch);
  return lsnOf(flushText);
}

/** Throws `conflict` if the epoch that a compute shows is not the one that may write. */
export function checkEpoch(found: string | undefined, wanted: WriterEpoch): void {
  if (found === wanted) return;
  throw new NeonError(
    ErrorCode.Conflict,
    found === undefined
      ? `the Postgres that answers has no ${EPOCH_SETTING}: it is no compute of this branch`
      : `the compute writes in epoch ${found}, but ${wanted} is the one that may`,
    { data: { expected: wanted, found: found ?? null } },
  );
}

async function readEpoch(connection: PgConnection): Promise<string | undefined> {
  try {
    const [epoch] = singleRow(await connection.query(`SHOW ${EPOCH_SETTING}`));
    return epoch ?? undefined;
  } catch (error) {
    if (error instanceof ServerError && error.sqlState === SqlState.UndefinedObject) return undefined;
    throw error;
  }
}

/**
 * Creates the slot unless it is there. It keeps the compute's WAL from its last checkpoint on until we have it. On a
 * connection for a database SQL is asked about it, for servers whose replication commands cannot tell.
 */
export async function ensureSlot(
  connection: PgConnection,
  slotName: string,
  mode: ConnectionMode,
): Promise<void> {
  if (await slotExists(connection, slotName, mode)) return;
  try {
    await connection.query(`CREATE_REPLICATION_SLOT ${slotName} PHYSICAL RESERVE_WAL`);
  } catch (error) {
    if (!(error instanceof ServerError && error.sqlState === SqlState.DuplicateObject)) throw error;
  }
}

/** Asks first: a failing CREATE leaves a line in the compute's log. */
async function slotExists(
  connection: PgConnection,
  slotName: string,
  mode: ConnectionMode,
): Promise<boolean> {
  if (mode === "physical") {
    const [type] = singleRow(await connection.query(`READ_REPLICATION_SLOT ${slotName}`));
    return type !== null && type !== undefined;
  }
  const [count] = singleRow(
    await connection.query(
      `SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots WHERE slot_name = '${slotName}'`,
    ),
  );
  return count !== "0";
}

/** The only row of the only result. */
export function singleRow(results: readonly QueryResult[]): readonly (string | null)[] {
  const row = results[0]?.rows[0];
  if (!row) throw corrupt("the server answered without a row");
  return row;
}

/** An LSN as a server wrote it. */
export function lsnOf(text: string | null | undefined): Lsn {
  const lsn = parseLsn(text ?? "");
  if (lsn === undefined) throw corrupt(`"${text}" is no LSN`);
  return lsn;
}

/** Refuses a compute whose WAL ends before ours: it would write other bytes at LSNs that we already have. */
export function checkContinues(flushLsn: Lsn, resumeLsn: Lsn): void {
  if (flushLsn >= resumeLsn) return;
  throw new NeonError(
    ErrorCode.Conflict,
    `the compute's WAL ends at ${formatLsn(flushLsn)}, before ${formatLsn(resumeLsn)} that the branch already has`,
    { data: { compute_lsn: formatLsn(flushLsn), branch_lsn: formatLsn(resumeLsn) } },
  );
}
