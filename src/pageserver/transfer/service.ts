/**
 * Pushing and pulling as a pageserver offers it: to its own user, for whom it connects to another pageserver, and to
 * other pageservers that have connected to it. Both directions are one sender and one receiver.
 */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import type { TenantId } from "../../base/ids.ts";
import type { Lineage } from "../../base/lineage.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";
import type { Clock, Files, Random } from "../../base/seams.ts";
import { JsonFields } from "../json-fields.ts";
import { checkRefName } from "../timeline/refs.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import type { Tenant } from "../timeline/tenant.ts";
import type { Tenants } from "../timeline/tenants.ts";
import { type RemoteBranch, listBranches, renderRemoteBranch } from "./branch-list.ts";
import type { Channel } from "./channel.ts";
import { type Operation } from "./identity.ts";
import { converse } from "./peer.ts";
import { planBytes, planLayers } from "./plan.ts";
import { type ReceiverOutcome, receive } from "./receiver.ts";
import { type TransferProgress, send } from "./sender.ts";
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

export interface TransferServiceDependencies {
  readonly tenants: Tenants<ServedTimeline>;
  /** The directory that holds a directory per tenant. */
  readonly tenantsDirectory: string;
  readonly files: Files;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: { info(data: object, message: string): void; warn(data: object, message: string): void };
  /** `origin` is what the command line was given: address, user, password. */
  readonly connect: (origin: JsonFields, signal: AbortSignal) => Promise<TransferConnection>;
}

/** What `perform_push` and `perform_pull` are asked for. */
export interface PerformRequest {
  readonly tenantId: TenantId;
  /** The branch here. */
  readonly branch: string;
  /** Its name there. */
  readonly other: string;
  readonly dryRun: boolean;
  readonly origin: JsonFields;
}

/** What a server that is connected to is asked for: `branch_push` and `branch_pull`. */
export interface ServeRequest {
  readonly tenantId: TenantId;
  readonly branch: string;
  readonly dryRun: boolean;
}

export type TransferEvent = Readonly<Record<string, unknown>>;

export class TransferService {
  private readonly dependencies: TransferServiceDependencies;
  private readonly claims: StagingClaims;

  constructor(dependencies: TransferServiceDependencies) {
    this.dependencies = dependencies;
    this.claims = new StagingClaims(dependencies.tenantsDirectory, dependencies);
  }

  /** Sends a branch to another pageserver. The last event is `done`; errors are thrown. */
  async performPush(
    request: PerformRequest,
    emit: (event: TransferEvent) => void,
    signal: AbortSignal,
  ): Promise<void> {
    const { tenantId, branch, other, dryRun } = request;
    const tenant = this.dependencies.tenants.get(tenantId);
    tenant.branch(branch);
    checkRefName(other);
    await using connection = await this.dependencies.connect(request.origin, signal);
    const channel = await connection.copyBoth(
      commandText("branch_push", { tenantId, branch: other, dryRun }),
    );
    const progress = this.progressEvents("send", emit);
    const outcome = await converse(channel, signal, async (peer) =>
      send(
        peer,
        {
          ...this.senderOptions("push", tenantId, tenant),
          timelineId: await this.timelineToSend(tenant, branch),
          dryRun,
          signal,
          progress,
        },
        this.dependencies,
      ),
    );
    const state = { name: other, lineage: outcome.lineage };
    emit(doneEvent({ ...outcome, dryRun }, channel, dryRun ? [] : [state]));
  }

  /** Fetches a branch from another pageserver. */
  async performPull(
    request: PerformRequest,
    emit: (event: TransferEvent) => void,
    signal: AbortSignal,
  ): Promise<void> {
    const { tenantId, branch, other, dryRun } = request;
    checkRefName(branch);
    await using connection = await this.dependencies.connect(request.origin, signal);
    const channel = await connection.copyBoth(
      commandText("branch_pull", { tenantId, branch: other, dryRun }),
    );
    const progress = this.progressEvents("receive", emit);
    const outcome = await converse(channel, signal, (peer) =>
      receive(
        peer,
        { operation: "pull", tenantId, branch, dryRun, signal, progress },
        { ...this.dependencies, claims: this.claims },
      ),
    );
    const lineage = dryRun ? undefined : this.lineageOfBranch(tenantId, branch);
    emit(
      doneEvent({ ...pulled(outcome, lineage), dryRun }, channel, lineage ? [{ name: other, lineage }] : []),
    );
  }

  /** The receiving end of somebody's push. */
  async serveBranchPush(channel: Channel, request: ServeRequest, signal: AbortSignal): Promise<void> {
    const { tenantId, branch, dryRun } = request;
    await converse(channel, signal, (peer) =>
      receive(
        peer,
        { operation: "push", tenantId, branch, dryRun, signal, progress: () => undefined },
        { ...this.dependencies, claims: this.claims },
      ),
    );
  }

  /** The sending end of somebody's pull. */
  async serveBranchPull(channel: Channel, request: ServeRequest, signal: AbortSignal): Promise<void> {
    const { tenantId, branch } = request;
    await converse(channel, signal, async (peer) => {
      const tenant = this.dependencies.tenants.get(tenantId);
      return send(
        peer,
        {
          ...this.senderOptions("pull", tenantId, tenant),
          timelineId: await this.timelineToSend(tenant, branch),
          dryRun: false,
          signal,
          progress: () => undefined,
        },
        this.dependencies,
      );
    });
  }

  /** What another pageserver has: its branches with their histories. */
  async remoteBranches(origin: JsonFields, tenantId: TenantId, signal: AbortSignal): Promise<unknown[]> {
    await using connection = await this.dependencies.connect(origin, signal);
    const { rows } = await connection.query(`branch_list ${JSON.stringify({ tenant_id: tenantId })}`);
    return rows.map(([text]) => JSON.parse(text ?? "null") as unknown);
  }

  /** The rows that answer `branch_list`: a JSON object for each branch. Throws `not_found` for an unknown tenant. */
  branchList(tenantId: TenantId): object[] {
    return listBranches(this.dependencies.tenants.get(tenantId)).map(renderRemoteBranch);
  }

  private senderOptions(
    operation: Operation,
    tenantId: TenantId,
    tenant: Tenant<ServedTimeline>,
  ): { operation: Operation; tenantId: TenantId; tenant: Tenant<ServedTimeline>; scratchDirectory: string } {
    return { operation, tenantId, tenant, scratchDirectory: this.claims.scratchDirectory(tenantId) };
  }

  /** The branch's timeline, with everything that has been committed on its compute. */
  private async timelineToSend(
    tenant: Tenant<ServedTimeline>,
    branch: string,
  ): Promise<ServedTimeline["id"]> {
    const { ref, entry } = tenant.branch(branch);
    if (entry.kind === "broken") throw entry.error;
    if (entry.timeline.writer) await entry.timeline.syncWithWriter(SYNC_TIMEOUT_MS);
    return ref.timelineId;
  }

  private lineageOfBranch(tenantId: TenantId, branch: string): Lineage | undefined {
    const tenant = this.dependencies.tenants.get(tenantId);
    return listBranches(tenant).find((candidate) => candidate.name === branch)?.lineage;
  }

  private progressEvents(
    phase: "send" | "receive",
    emit: (event: TransferEvent) => void,
  ): (progress: TransferProgress) => void {
    let last = 0;
    let lastPhase = "";
    let started: { at: number; bytes: number } | undefined;
    return (progress) => {
      const now = this.dependencies.clock.now();
      if (progress.phase === phase) started ??= { at: now, bytes: progress.bytes };
      if (progress.phase === lastPhase && now - last < PROGRESS_INTERVAL_MS) return;
      last = now;
      lastPhase = progress.phase;
      const seconds = started ? (now - started.at) / 1000 : 0;
      const rate = started && seconds > 0 ? Math.round((progress.bytes - started.bytes) / seconds) : null;
      emit({ event: "progress", ...progress, rate: progress.phase === phase ? rate : null });
    };
  }
}

/** Reads the argument of `perform_push` and `perform_pull`. */
export function parsePerformRequest(value: unknown): PerformRequest {
  const fields = usageFields(value);
  const branch = fields.text("branch");
  return {
    tenantId: fields.tenantId("tenant_id"),
    branch,
    other: fields.optionalText("other") ?? branch,
    dryRun: fields.has("dry_run") && fields.boolean("dry_run"),
    origin: fields.object("origin"),
  };
}

/** Reads the argument of `branch_push` and `branch_pull`. */
export function parseServeRequest(value: unknown): ServeRequest {
  const fields = usageFields(value);
  return {
    tenantId: fields.tenantId("tenant_id"),
    branch: fields.text("branch"),
    dryRun: fields.has("dry_run") && fields.boolean("dry_run"),
  };
}

function usageFields(value: unknown): JsonFields {
  return new JsonFields(value, "", (message) => new NeonError(ErrorCode.Usage, message));
}

function commandText(name: string, request: ServeRequest): string {
  const { tenantId, branch, dryRun } = request;
  return `${name} ${JSON.stringify({ tenant_id: tenantId, branch, dry_run: dryRun })}`;
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

function doneEvent(
  summary: Summary,
  channel: Channel,
  remote: readonly { name: string; lineage: Lineage }[],
): TransferEvent {
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
    layer_bytes: layerBytes,
    remote_branches: remote.map(({ name, lineage }): object =>
      renderRemoteBranch({ name, timelineId: undefined, lineage, hasWriter: false, error: undefined }),
    ),
  };
}

export type { RemoteBranch };
