/** What `push`, `pull` and `clone` have in common: one transfer with progress, and what is noted after it. */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import { formatLsn } from "../../base/lsn.ts";
import type { LibpqTarget } from "../../client/libpq.ts";
import type { PageserverClient } from "../../client/pageserver-client.ts";
import {
  type TransferKind,
  type TransferProgress,
  type TransferResult,
  performTransfer,
} from "../../client/transfer.ts";
import { parseListenAddress } from "../../repository/config-keys.ts";
import {
  type Upstream,
  originUri,
  parseOriginArgument,
  readUpstreams,
  setUpstream,
} from "../../repository/origins.ts";
import type { Repository } from "../../repository/repository.ts";
import { trackBranches } from "../../repository/tracking.ts";
import type { JsonFields } from "./base-command.ts";
import { formatBytes } from "./output.ts";
import { Progress } from "./progress.ts";

/** The user that the repository's own token is the password of. */
const LOCAL_USER = "neon";
const LOCAL_TIMEOUT_MS = 10_000;
/** With --json, between two lines of progress. */
const EVENT_INTERVAL_MS = 1000;

/** The local pageserver's libpq service. Throws `unreachable` before the first start of a pageserver that has one. */
export function localTarget(repository: Repository): LibpqTarget {
  const { listenLibpq, authToken } = repository.config.pageserver;
  const address = listenLibpq === undefined ? undefined : parseListenAddress(listenLibpq);
  if (!address) {
    throw new NeonError(ErrorCode.Unreachable, "the pageserver does not listen for libpq yet", {
      hint: "`neon stop` and `neon start` give it a port.",
    });
  }
  const host = address.host.replace(/^\[(.*)\]$/, "$1");
  const everywhere: Readonly<Record<string, string>> = { "0.0.0.0": "127.0.0.1", "::": "::1" };
  return {
    host: everywhere[host] ?? host,
    port: address.port,
    user: LOCAL_USER,
    password: authToken,
    database: undefined,
    sslMode: "prefer",
    sslRootCert: undefined,
    passFile: undefined,
    connectTimeoutMs: LOCAL_TIMEOUT_MS,
  };
}

/** Where a branch is pushed to or pulled from: what was said, else its upstream. */
export interface Partner extends Upstream {
  /** There is no upstream yet. */
  readonly isFirst: boolean;
}

/** Throws `usage` where nothing was said and nothing is known, `not_found` for an origin that does not exist. */
export function partnerOf(
  repository: Repository,
  kind: TransferKind,
  branch: string,
  timelineId: TimelineId | undefined,
  argument: string | undefined,
): Partner {
  const upstream = timelineId === undefined ? undefined : readUpstreams(repository).get(timelineId);
  if (argument === undefined) {
    if (!upstream) throw noUpstream(repository, kind, branch);
    originUri(repository, upstream.origin);
    return { ...upstream, isFirst: false };
  }
  const { origin, branch: other } = parseOriginArgument(argument);
  originUri(repository, origin);
  return { origin, branch: other ?? branch, isFirst: upstream === undefined };
}

function noUpstream(repository: Repository, kind: TransferKind, branch: string): NeonError {
  const origins = Object.keys(repository.config.origins).sort();
  return new NeonError(ErrorCode.Usage, `branch "${branch}" has no upstream: which origin?`, {
    hint:
      origins.length === 0
        ? "There is no origin yet: `neon origin add NAME postgresql://USER@HOST:PORT`."
        : `\`neon ${kind} ${branch} ${origins[0]}\`; the first ${kind} makes it the upstream.`,
  });
}

export interface TransferOptions {
  readonly repository: Repository;
  readonly kind: TransferKind;
  readonly tenantId: TenantId;
  /** Name here. */
  readonly branch: string;
  readonly partner: Upstream;
  readonly target: LibpqTarget;
  readonly dryRun: boolean;
  readonly json: boolean;
  readonly signal: AbortSignal;
  /** Called with the first bytes that arrive. */
  readonly onData?: () => void;
}

/** Runs a transfer with progress on stderr, then notes what the origin has now. */
export async function transfer(options: TransferOptions): Promise<TransferResult> {
  const { repository, kind, tenantId, branch, partner, target, dryRun, signal } = options;
  using progress = new Progress({ silent: options.json });
  const verb = kind === "push" ? "pushing" : "pulling";
  progress.begin(`${verb} ${describeTransfer(kind, branch, partner)}`);
  let eventAt = Number.NEGATIVE_INFINITY;
  const result = await performTransfer(
    localTarget(repository),
    kind,
    { tenantId, branch, origin: target, other: partner.branch, dryRun },
    {
      signal,
      onProgress: (event) => {
        if (event.bytes > 0) options.onData?.();
        progress.set(event.bytes, event.total);
        if (!options.json || performance.now() - eventAt < EVENT_INTERVAL_MS) return;
        eventAt = performance.now();
        process.stderr.write(`${JSON.stringify(eventJson(event))}\n`);
      },
    },
  );
  progress.end();
  const { remoteBranches = [] } = result;
  if (remoteBranches.length > 0) await trackBranches(repository, partner.origin, tenantId, remoteBranches);
  return result;
}

function eventJson({ phase, bytes, total }: TransferProgress): JsonFields {
  return { event: "progress", phase, bytes, total: total ?? null };
}

/** Makes the partner the branch's upstream, if it is the first one or wanted. */
export async function noteUpstream(
  repository: Repository,
  client: PageserverClient,
  branch: string,
  partner: Partner,
  wanted: boolean,
): Promise<boolean> {
  if (!partner.isFirst && !wanted) return false;
  const { timelineId } = await client.getBranch(branch);
  await setUpstream(repository, timelineId, { origin: partner.origin, branch: partner.branch });
  return true;
}

/** `main -> staging:main`, in the direction in which the data goes. */
export function describeTransfer(kind: TransferKind, branch: string, partner: Upstream): string {
  const there = `${partner.origin}:${partner.branch}`;
  return kind === "push" ? `${branch} -> ${there}` : `${there} -> ${branch}`;
}

/** One line about what was done, or in a dry run would be. */
export function describeResult(result: TransferResult, dryRun: boolean): string {
  const { fromLsn, toLsn, totalBytes } = result;
  const end = toLsn === undefined ? "its end" : formatLsn(toLsn);
  if (result.result === "unchanged") return `up to date at ${end}`;
  const span = fromLsn === undefined ? end : `${formatLsn(fromLsn)}..${end}`;
  const bytes = result.bytesSent + result.bytesReceived;
  if (!dryRun) return `${result.result}, ${span}, ${formatBytes(bytes)} transferred`;
  const size = totalBytes === undefined ? "" : `, ${formatBytes(totalBytes)} before compression`;
  return `would be ${result.result}, ${span}${size}`;
}

export function resultJson(result: TransferResult): JsonFields {
  return {
    result: result.result,
    bytes_sent: result.bytesSent,
    bytes_received: result.bytesReceived,
    from_lsn: result.fromLsn === undefined ? null : formatLsn(result.fromLsn),
    to_lsn: result.toLsn === undefined ? null : formatLsn(result.toLsn),
    total_bytes: result.totalBytes ?? null,
  };
}
