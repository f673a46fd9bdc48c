/**
 * Pushing and pulling as a pageserver offers it: to its own user, for whom it connects to another pageserver, and to
 * other pageservers that have connected to it. Both directions are one sender and one receiver.
 */
import { corrupt, messageOf } from "../../base/errors.ts";
import type { TenantId } from "../../base/ids.ts";
import type { Lineage } from "../../base/lineage.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";
import type { Clock, Files, Random } from "../../base/seams.ts";
import type { JsonFields } from "../json-fields.ts";
import { checkRefName } from "../timeline/refs.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import type { Tenant } from "../timeline/tenant.ts";
import type { Tenants } from "../timeline/tenants.ts";
import { renderRemoteBranch, timelineLineage } from "./branch-list.ts";
import type { Channel } from "../../pgwire/channel.ts";
import type { Operation } from "./identity.ts";
import { converse } from "./peer.ts";
import { planBytes, planLayers } from "./plan.ts";
import { type ReceiverOutcome, receive } from "./receiver.ts";
import { type SenderOptions, type TransferProgress, send } from "./sender.ts";
import { StagingClaims } from "./staging.ts";

/** How long commits that have returned on a running compute may take to arrive before a branch is sent. */
const SYNC_TIMEOUT_MS = 30_000;
/** Between two events of progress, in milliseconds. */
const PROGRESS_INTERVAL_MS = 250;

/** A connection to another pageserver. */
export interface TransferConnection extends AsyncDisposable {
  /** Starts a command that exchanges data in both directions. */
  copyBoth(command: string): Promise<Channel>;
  query(command: string): Promise<{ readonly rows: readonly (readonly (string | null)[])[] }>;
}

export interface TransferDependencies {
  readonly tenants: Tenants<ServedTimeline>;
  /** The directory that holds a directory per tenant. */
  readonly tenantsDirectory: string;
  readonly files: Files;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: { info(data: object, message: string): void; warn(data: object, message: string): void };
  /** `origin` is what the command line was given: address, user, password. The signal ends the connection. */
  readonly connect: (origin: JsonFields, signal: AbortSignal) => Promise<TransferConnection>;
}

/** Sends one event to whoever waits; resolves when it can take more. */
export type Emit = (event: object) => Promise<void>;

/** What `perform_push` and `perform_pull` are asked for. */
interface PerformRequest {
  readonly tenantId: TenantId;
  /** The branch here. */
  readonly branch: string;
  /** Its name there. */
  readonly other: string;
  readonly dryRun: boolean;
  readonly origin: JsonFields;
}

export class TransferService {
  private readonly dependencies: TransferDependencies;
  private readonly claims: StagingClaims;

  constructor(dependencies: TransferDependencies) {
    this.dependencies = dependencies;
    this.claims = new StagingClaims(dependencies.tenantsDirectory, dependencies);
  }

  /** Sends a branch to another pageserver. Returns the last event, `done`. */
  async performPush(fields: JsonFields, emit: Emit, signal: AbortSignal): Promise<object> {
    const { tenantId, branch, other, dryRun, origin } = readRequest(fields);
    this.dependencies.tenants.get(tenantId).branch(branch);
    checkRefName(other);
    await using connection = await this.dependencies.connect(origin, signal);
    const channel = await connection.copyBoth(commandText("branch_push", tenantId, other));
    const progress = this.progressEvents("send", emit);
    const outcome = await this.sendBranch(channel, branch, {
      operation: "push",
      tenantId,
      dryRun,
      signal,
      progress,
    });
    const { result, fromLsn, toLsn, layers, layerBytes, lineage } = outcome;
    const summary = { result, fromLsn, toLsn, layers, layerBytes, dryRun };
    return doneEvent(summary, channel, dryRun ? [] : [renderRemoteBranch(other, lineage)]);
  }

  /** Fetches a branch from another pageserver. Returns the last event, `done`. */
  async performPull(fields: JsonFields, emit: Emit, signal: AbortSignal): Promise<object> {
    const { tenantId, branch, other, dryRun, origin } = readRequest(fields);
    checkRefName(branch);
    await using connection = await this.dependencies.connect(origin, signal);
    const channel = await connection.copyBoth(commandText("branch_pull", tenantId, other));
    const progress = this.progressEvents("receive", emit);
    const outcome = await this.receiveBranch(channel, {
      operation: "pull",
      tenantId,
      branch,
      dryRun,
      signal,
      progress,
    });
    const lineage = this.lineageOfBranch(tenantId, branch);
    const remote = lineage && !dryRun ? [renderRemoteBranch(other, lineage)] : [];
    return doneEvent({ ...pulled(outcome, lineage), dryRun }, channel, remote);
  }

  /** The receiving end of somebody's push. */
  async serveBranchPush(
    channel: Channel,
    fields: JsonFields,
    _identity: unknown,
    signal: AbortSignal,
  ): Promise<void> {
    const tenantId = fields.tenantId("tenant_id");
    const branch = fields.text("branch");
    fields.end();
    await this.receiveBranch(channel, {
      operation: "push",
      tenantId,
      branch,
      dryRun: false,
      signal,
      progress: () => undefined,
    });
  }

  /** The sending end of somebody's pull. */
  async serveBranchPull(
    channel: Channel,
    fields: JsonFields,
    _identity: unknown,
    signal: AbortSignal,
  ): Promise<void> {
    const tenantId = fields.tenantId("tenant_id");
    const branch = fields.text("branch");
    fields.end();
    await this.sendBranch(channel, branch, {
      operation: "pull",
      tenantId,
      dryRun: false,
      signal,
      progress: () => undefined,
    });
  }

  /** The branches of another pageserver. */
  async remoteBranches(fields: JsonFields, signal: AbortSignal): Promise<object> {
    const tenantId = fields.tenantId("tenant_id");
    const origin = fields.object("origin");
    await using connection = await this.dependencies.connect(origin, signal);
    const { rows } = await connection.query(`branch_list ${tenantId}`);
    let branches: unknown;
    try {
      branches = JSON.parse(rows[0]?.[0] ?? "");
    } catch (error) {
      throw corrupt(`the other pageserver's list of branches is no JSON: ${messageOf(error)}`, {}, error);
    }
    if (!Array.isArray(branches)) throw corrupt("the other pageserver's list of branches is no list");
    return { branches };
  }

  private sendBranch(
    channel: Channel,
    branch: string,
    options: Omit<SenderOptions, "tenant" | "timelineId" | "scratchDirectory">,
  ): ReturnType<typeof send> {
    return converse(channel, options.signal, async (peer) => {
      const tenant = this.dependencies.tenants.get(options.tenantId);
      const timelineId = await timelineToSend(tenant, branch);
      const scratchDirectory = this.claims.scratchDirectory(options.tenantId);
      return send(peer, { ...options, tenant, timelineId, scratchDirectory }, this.dependencies);
    });
  }

  private receiveBranch(
    channel: Channel,
    options: {
      operation: Operation;
      tenantId: TenantId;
      branch: string;
      dryRun: boolean;
      signal: AbortSignal;
      progress: (progress: TransferProgress) => void;
    },
  ): Promise<ReceiverOutcome> {
    const { claims } = this;
    return converse(channel, options.signal, (peer) =>
      receive(peer, options, { ...this.dependencies, claims }),
    );
  }

  private lineageOfBranch(tenantId: TenantId, branch: string): Lineage | undefined {
    const { tenants } = this.dependencies;
    for (const entry of tenants.list()) {
      if (entry.kind !== "open" || entry.tenant.id !== tenantId) continue;
      const found = entry.tenant.branches().find(({ ref }) => ref.name === branch);
      if (found?.entry.kind === "open") return timelineLineage(entry.tenant, found.entry.timeline);
    }
    return undefined;
  }

  private progressEvents(phase: "send" | "receive", emit: Emit): (progress: TransferProgress) => void {
    let last = 0;
    let lastPhase = "";
    let isBusy = false;
    let started: { at: number; bytes: number } | undefined;
    return (progress) => {
      const now = this.dependencies.clock.now();
      if (progress.phase === phase) started ??= { at: now, bytes: progress.bytes };
      // Whoever does not read fast enough gets fewer events.
      if (isBusy || (progress.phase === lastPhase && now - last < PROGRESS_INTERVAL_MS)) return;
      last = now;
      lastPhase = progress.phase;
      const seconds = started ? (now - started.at) / 1000 : 0;
      const rate = started && seconds > 0 ? Math.round((progress.bytes - started.bytes) / seconds) : null;
      isBusy = true;
      emit({ event: "progress", ...progress, rate: progress.phase === phase ? rate : null })
        // The connection's signal tells of its end.
        .catch(() => undefined)
        .finally(() => {
          isBusy = false;
        });
    };
  }
}

function readRequest(fields: JsonFields): PerformRequest {
  const branch = fields.text("branch");
  const request = {
    tenantId: fields.tenantId("tenant_id"),
    branch,
    other: fields.optionalText("other") ?? branch,
    dryRun: fields.has("dry_run") && fields.boolean("dry_run"),
    origin: fields.object("origin"),
  };
  fields.end();
  return request;
}

function commandText(name: string, tenantId: TenantId, branch: string): string {
  return `${name} ${JSON.stringify({ tenant_id: tenantId, branch })}`;
}

/** The branch's timeline, with everything that has been committed on its compute. */
async function timelineToSend(tenant: Tenant<ServedTimeline>, branch: string): Promise<ServedTimeline["id"]> {
  const { ref, entry } = tenant.branch(branch);
  if (entry.kind === "broken") throw entry.error;
  if (entry.timeline.writer) await entry.timeline.syncWithWriter(SYNC_TIMEOUT_MS);
  return ref.timelineId;
}

interface Summary {
  readonly result: "created" | "updated" | "unchanged";
  readonly fromLsn: Lsn | undefined;
  readonly toLsn: Lsn | undefined;
  readonly layers: number;
  readonly layerBytes: number;
  readonly dryRun: boolean;
}

function pulled({ result, plan }: ReceiverOutcome, lineage: Lineage | undefined): Omit<Summary, "dryRun"> {
  const toLsn = plan?.steps.at(-1)?.toLsn ?? lineage?.endLsn;
  return {
    result,
    fromLsn: plan ? plan.commonLsn : toLsn,
    toLsn,
    layers: plan ? planLayers(plan).length : 0,
    layerBytes: plan ? planBytes(plan) : 0,
  };
}

function doneEvent(summary: Summary, channel: Channel, remoteBranches: readonly object[]): object {
  const { result, fromLsn, toLsn, layers, layerBytes, dryRun } = summary;
  return {
    event: "done",
    result,
    dry_run: dryRun,
    bytes_sent: channel.bytesSent,
    bytes_received: channel.bytesReceived,
    from_lsn: fromLsn === undefined ? null : formatLsn(fromLsn),
    to_lsn: toLsn === undefined ? null : formatLsn(toLsn),
    layers,
    total_bytes: layerBytes,
    remote_branches: remoteBranches,
  };
}
