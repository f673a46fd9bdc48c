/**
 * Push and pull as the local pageserver does them: one libpq command with a JSON argument, answered by lines of JSON in a
 * CopyOut, progress first and the result last (docs/libpq-api.md). Closing the connection ends the transfer.
 */
import { ErrorCode, NeonError } from "../base/errors.ts";
import type { TenantId } from "../base/ids.ts";
import { type Lsn, parseLsn } from "../base/lsn.ts";
import { connectLibpq } from "../pgwire/libpq-client.ts";
import type { LibpqTarget } from "../pgwire/uri.ts";
import { type JsonObject, isObject, numberField, optionalTextField, textField } from "./json.ts";
import { type RemoteBranch, notAPageserver, remoteBranchesOf } from "./remote-pageserver.ts";

export type TransferKind = "push" | "pull";

export interface TransferRequest {
  readonly tenantId: TenantId;
  /** Name of the branch here. */
  readonly branch: string;
  /** The other pageserver, with the password. */
  readonly origin: LibpqTarget;
  /** Name of the branch there. */
  readonly other: string;
  /** Find out what would be sent, and send nothing. */
  readonly dryRun: boolean;
}

export interface TransferProgress {
  /** What it is about just now, a word or two. */
  readonly phase: string;
  readonly bytes: number;
  /** Undefined as long as nobody knows. */
  readonly total: number | undefined;
}

export interface TransferResult {
  readonly result: "created" | "updated" | "unchanged";
  /** Over the connection between the pageservers. */
  readonly bytesSent: number;
  readonly bytesReceived: number;
  /** What the receiver had before; undefined if it had nothing of the branch. */
  readonly fromLsn: Lsn | undefined;
  /** The end of the branch afterwards, where the pageserver knows it. */
  readonly toLsn: Lsn | undefined;
  /** What was (in a dry run, would be) sent, before compression. */
  readonly totalBytes: number | undefined;
  /** Branches there, as they are after the transfer. */
  readonly remoteBranches: readonly RemoteBranch[] | undefined;
}

/** The longest line that we accept: the list of branches with their histories. */
const LINE_LENGTH_MAX = 256 * 1024 * 1024;

/** Throws what either pageserver says, `unreachable` where the local one does not answer. */
export async function performTransfer(
  local: LibpqTarget,
  kind: TransferKind,
  request: TransferRequest,
  options: { readonly onProgress: (progress: TransferProgress) => void; readonly signal: AbortSignal },
): Promise<TransferResult> {
  const { onProgress, signal } = options;
  await using client = await connectLocal(local, signal);
  try {
    for await (const line of linesOf(client.copyOut(commandOf(kind, request)))) {
      const event = parseLine(line);
      if (event["event"] === "progress") onProgress(progressOf(event));
      else if (event["event"] === "done") return resultOf(event);
    }
  } catch (error) {
    signal.throwIfAborted();
    // An error of Postgres' own is that of the other side: commands of pageservers mean nothing to it.
    const isPostgres = error instanceof NeonError && error.code === ErrorCode.Postgres;
    throw isPostgres ? notAPageserver(request.origin, error) : error;
  }
  throw new NeonError(ErrorCode.Unreachable, `the local pageserver broke off the ${kind}`, {
    hint: `\`neon logs\` may say why. Run the same command again: what has arrived is kept.`,
  });
}

async function connectLocal(
  local: LibpqTarget,
  signal: AbortSignal,
): Promise<Awaited<ReturnType<typeof connectLibpq>>> {
  try {
    return await connectLibpq(local, signal);
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof NeonError)) throw error;
    throw new NeonError(ErrorCode.Unreachable, `the local pageserver does not answer: ${error.message}`, {
      hint: "Start it with `neon start`; if it runs, `neon stop` and `neon start` apply changed settings.",
      cause: error,
    });
  }
}

function commandOf(kind: TransferKind, { tenantId, branch, origin, other, dryRun }: TransferRequest): string {
  const argument = {
    tenant_id: tenantId,
    branch,
    origin: {
      host: origin.host,
      port: origin.port,
      user: origin.user,
      password: origin.password,
      database: origin.database,
      sslmode: origin.sslMode,
      sslrootcert: origin.sslRootCert,
      connect_timeout_ms: origin.connectTimeoutMs,
    },
    other,
    dry_run: dryRun,
  };
  return `perform_${kind} ${JSON.stringify(argument)}`;
}

async function* linesOf(payloads: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const payload of payloads) {
    const lines = (rest + decoder.decode(payload, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    if (rest.length > LINE_LENGTH_MAX) throw misfit("its answer is too long");
    for (const line of lines) if (line !== "") yield line;
  }
  if (rest !== "") yield rest;
}

function parseLine(line: string): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw misfit("its answer is no JSON");
  }
  if (!isObject(value)) throw misfit("its answer is no object");
  return value;
}

function progressOf(event: JsonObject): TransferProgress {
  const total = event["total"];
  return {
    phase: optionalTextField(event, "phase") ?? "",
    bytes: numberField(event, "bytes"),
    total: typeof total === "number" && total > 0 ? total : undefined,
  };
}

function resultOf(event: JsonObject): TransferResult {
  const result = textField(event, "result");
  if (result !== "created" && result !== "updated" && result !== "unchanged")
    throw misfit("its result is unknown");
  const lsnOf = (field: string): Lsn | undefined => {
    const text = optionalTextField(event, field);
    return text === null ? undefined : parseLsn(text);
  };
  const branches = event["remote_branches"];
  const total = event["total_bytes"];
  return {
    result,
    bytesSent: numberField(event, "bytes_sent"),
    bytesReceived: numberField(event, "bytes_received"),
    fromLsn: lsnOf("from_lsn"),
    toLsn: lsnOf("to_lsn"),
    totalBytes: typeof total === "number" ? total : undefined,
    remoteBranches: Array.isArray(branches) ? remoteBranchesOf(branches) : undefined,
  };
}

function misfit(what: string): NeonError {
  return new NeonError(ErrorCode.Unreachable, `the local pageserver is not understood: ${what}`, {
    hint: "Command line and pageserver may be of different versions: run `neon stop` and `neon start`.",
  });
}
