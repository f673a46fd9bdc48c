/** Typed client of a pageserver's HTTP API: one method per route, camelCase results, LSNs and ids parsed. */
import type { Readable } from "node:stream";
import { ErrorCode, NeonError } from "../base/errors.ts";
import { type LeasedMoment, setLease } from "./leases.ts";
import { type TenantId, type TimelineId, type WriterEpoch, parseTenantId } from "../base/ids.ts";
import type { Lineage } from "../base/lineage.ts";
import { type Lsn, formatLsn, parseLsn } from "../base/lsn.ts";
import { type FollowerInfo, followersOf } from "./follower-info.ts";
import { type FsckReport, type RepairReport, fsckReportOf, repairReportOf } from "./fsck-report.ts";
import {
  type HttpCall,
  type HttpTarget,
  readBody,
  readStream,
  requestJson,
  requestJsonLines,
  sendRequest,
} from "./http.ts";
import {
  type JsonObject,
  arrayField,
  asObject,
  lsnField,
  numberField,
  optionalLineageField,
  optionalNumberField,
  optionalTextField,
  textField,
  timelineIdField,
  writerEpochField,
} from "./json.ts";
import { type RecoveryPlan, recoveryPlanOf } from "./recovery.ts";
import { type Verification, verificationOf } from "./verification.ts";
import { pointBody, renderTime } from "./point-body.ts";

export interface PageserverStatus {
  readonly pid: number;
  readonly version: string;
  /** `ready` once it serves requests; anything else while it starts or stops. */
  readonly state: string;
  readonly startedAt: string | null;
  /** The working directory of the server, to tell whose it is. */
  readonly repository: string | null;
}

export interface TenantInfo {
  readonly tenantId: TenantId;
  /** Null for a tenant that cannot be opened. */
  readonly pgVersion: number | null;
  /** `active` or `broken`. */
  readonly state: string;
  readonly error: string | null;
}

export interface AncestorInfo {
  /** Null when no branch names the ancestor's timeline any more. */
  readonly name: string | null;
  readonly timelineId: TimelineId;
  readonly lsn: Lsn;
}

export interface WriterInfo {
  /** Name of the compute. */
  readonly name: string;
  readonly epoch: WriterEpoch;
  readonly state: string;
  readonly error: string | null;
}

export interface BranchInfo {
  readonly name: string;
  readonly timelineId: TimelineId;
  readonly ancestor: AncestorInfo | null;
  readonly lastRecordLsn: Lsn;
  readonly durableLsn: Lsn;
  /** `active`, `stopped` or `broken`. */
  readonly state: string;
  readonly error: string | null;
  readonly lagBytes: number | null;
  readonly writer: WriterInfo | null;
  readonly createdAt: string | null;
  readonly physicalBytes: number | null;
  readonly followers: readonly FollowerInfo[];
  /** Who wrote it, through all its ancestors; undefined for a branch that cannot be read. */
  readonly lineage: Lineage | undefined;
}

/** A new branch as the server reports it. */
export interface CreatedBranch {
  readonly name: string;
  readonly timelineId: TimelineId;
  readonly ancestor: AncestorInfo | null;
}

/** Where a branch starts: a branch or a timeline, at its end, at an LSN or at a time. */
export interface BranchPoint {
  readonly branch?: string;
  readonly timelineId?: TimelineId;
  readonly lsn?: Lsn;
  /** Milliseconds since 1970. */
  readonly timestampMs?: number;
}

/** Where the pageserver reaches the Postgres whose WAL it shall follow. */
export interface WriterSource {
  readonly socketDirectory?: string;
  readonly host?: string;
  readonly port: number;
  readonly user: string;
}

export interface ImportedTimeline {
  readonly timelineId: TimelineId;
  readonly lsn: Lsn;
  readonly systemId: string;
  readonly pgVersion: number;
}

export interface BaseBackup {
  readonly lsn: Lsn;
  /** Start of the last record before `lsn`, when the server says it. */
  readonly previousLsn: Lsn | undefined;
  /** A tar archive; ends with an error when the connection breaks. */
  readonly stream: AsyncIterable<Uint8Array>;
}

export interface PageserverClientOptions extends HttpTarget {
  readonly tenantId: TenantId;
  /** Longest silence of the server for ordinary requests, in milliseconds; 30 s unless given. */
  readonly timeoutMs?: number | undefined;
}

const TIMEOUT_MS = 30_000;
/** Creating a branch or a writer may wait for WAL; an import writes a whole database. */
const LONG_TIMEOUT_MS = 10 * 60_000;

interface FsckOptions {
  readonly progress?: (doneBytes: number, totalBytes: number) => void;
  readonly signal?: AbortSignal;
}

export class PageserverClient {
  readonly tenantId: TenantId;
  readonly target: HttpTarget;
  private readonly timeoutMs: number;

  constructor(options: PageserverClientOptions) {
    const { tenantId, timeoutMs, ...target } = options;
    this.target = target;
    this.tenantId = tenantId;
    this.timeoutMs = timeoutMs ?? TIMEOUT_MS;
  }

  get baseUrl(): string {
    return this.target.baseUrl;
  }

  /** The same server, another tenant. */
  withTenant(tenantId: TenantId): PageserverClient {
    return new PageserverClient({ ...this.target, tenantId, timeoutMs: this.timeoutMs });
  }

  /** Whether it is there and ready. Throws `unreachable` or `timeout` otherwise. */
  async status(options: { timeoutMs?: number; signal?: AbortSignal } = {}): Promise<PageserverStatus> {
    const answer = await this.call("GET", "/v1/status", options);
    return {
      pid: numberField(answer, "pid"),
      version: textField(answer, "version"),
      state: textField(answer, "state"),
      startedAt: optionalTextField(answer, "started_at"),
      repository: optionalTextField(answer, "repository"),
    };
  }

  async listTenants(): Promise<TenantInfo[]> {
    const call: HttpCall = { method: "GET", path: "/v1/tenant", timeoutMs: this.timeoutMs };
    return arrayField({ tenants: await requestJson(this.target, call) }, "tenants").map(tenantOf);
  }

  /** Creates this client's tenant on the server. Throws `exists` if it is there. */
  async createTenant(options: { pgVersion: number }): Promise<TenantInfo> {
    const body = { tenant_id: this.tenantId, pg_version: options.pgVersion };
    return tenantOf(await this.call("POST", "/v1/tenant", { body }));
  }

  /** Deletes this client's tenant with all its data. Throws `conflict` while a compute writes to a branch of it. */
  async deleteTenant(): Promise<void> {
    await this.call("DELETE", this.tenantPath(""), { timeoutMs: LONG_TIMEOUT_MS });
  }

  /** Imports the tar of a cleanly stopped data directory as the root timeline of `branch`. */
  async importDataDirectory(options: {
    branch: string;
    timelineId?: TimelineId;
    tar: Readable;
    signal?: AbortSignal;
  }): Promise<ImportedTimeline> {
    const query = new URLSearchParams({ branch: options.branch });
    if (options.timelineId) query.set("timeline_id", options.timelineId);
    const answer = await this.call("POST", this.tenantPath(`/import?${query.toString()}`), {
      upload: options.tar,
      timeoutMs: LONG_TIMEOUT_MS,
      signal: options.signal,
    });
    return {
      timelineId: timelineIdField(answer, "timeline_id"),
      lsn: lsnField(answer, "lsn"),
      systemId: textField(answer, "system_id"),
      pgVersion: numberField(answer, "pg_version"),
    };
  }

  async listBranches(): Promise<BranchInfo[]> {
    const answer = await this.call("GET", this.tenantPath("/branch"));
    return arrayField(answer, "branches").map((item) => branchOf(asObject(item, "branches[]")));
  }

  /** One branch. Throws `not_found`. */
  async getBranch(name: string): Promise<BranchInfo> {
    return branchOf(await this.call("GET", this.branchPath(name)));
  }

  /** Creates a branch; without LSN and time, at the end of the source including all that its compute has flushed. */
  async createBranch(name: string, point: BranchPoint, signal?: AbortSignal): Promise<CreatedBranch> {
    const body = { name, point: pointBody(point) };
    const answer = await this.call("POST", this.tenantPath("/branch"), {
      body,
      timeoutMs: LONG_TIMEOUT_MS,
      signal,
    });
    return {
      name: textField(answer, "name"),
      timelineId: timelineIdField(answer, "timeline_id"),
      ancestor: ancestorOf(answer["ancestor"]),
    };
  }

  /** Throws `conflict` while the branch has children or an open writer. */
  async deleteBranch(name: string): Promise<void> {
    await this.call("DELETE", this.branchPath(name));
  }

  async renameBranch(name: string, newName: string): Promise<void> {
    await this.call("POST", `${this.branchPath(name)}/rename`, { body: { new_name: newName } });
  }

  /** Has the server read and verify everything that the tenant has on disk. */
  async fsck(options: FsckOptions): Promise<FsckReport> {
    return fsckReportOf(await this.checkFiles({ method: "GET", path: this.tenantPath("/fsck") }, options));
  }

  /** Has the server do something about what a check finds; without `apply` it only says what that would be. */
  async repair(options: FsckOptions & { apply: boolean }): Promise<RepairReport> {
    const body = { apply: options.apply };
    return repairReportOf(
      await this.checkFiles({ method: "POST", path: this.tenantPath("/repair"), body }, options),
    );
  }

  private async checkFiles(
    request: { method: "GET" | "POST"; path: string; body?: JsonObject },
    { signal, progress }: FsckOptions,
  ): Promise<JsonObject> {
    const options = { ...request, timeoutMs: LONG_TIMEOUT_MS, signal };
    const result = await requestJsonLines(this.target, options, (value) => {
      const { done_bytes: done, total_bytes: total } = asObject(value, "progress");
      if (typeof done === "number" && typeof total === "number") progress?.(done, total);
    });
    return asObject(result, "result");
  }

  /** The end of the last record at or below the LSN, or of the last commit at or before the time. */
  async resolve(
    timelineId: TimelineId,
    at: { lsn: Lsn } | { timestampMs: number },
  ): Promise<{ readonly lsn: Lsn }> {
    const body = "lsn" in at ? { lsn: formatLsn(at.lsn) } : renderTime(at.timestampMs);
    const answer = await this.call("POST", `${this.timelinePath(timelineId)}/resolve`, { body });
    return { lsn: lsnField(answer, "lsn") };
  }

  /** Opens a writer epoch for a compute. Throws `conflict` while another's is open, unless `takeover`. */
  async openWriter(
    timelineId: TimelineId,
    options: { name: string; source: WriterSource; takeover?: boolean },
  ): Promise<{ readonly epoch: WriterEpoch; readonly lsn: Lsn }> {
    const { source } = options;
    const answer = await this.call("POST", `${this.timelinePath(timelineId)}/writer`, {
      body: {
        name: options.name,
        source: {
          socket_directory: source.socketDirectory,
          host: source.host,
          port: source.port,
          user: source.user,
        },
        takeover: options.takeover ?? false,
      },
      timeoutMs: LONG_TIMEOUT_MS,
    });
    return { epoch: writerEpochField(answer, "epoch"), lsn: lsnField(answer, "lsn") };
  }

  /** See `setLease`. */
  lease(timelineId: TimelineId, name: string, moment?: LeasedMoment): Promise<void> {
    return setLease(this, timelineId, name, moment);
  }

  async closeWriter(timelineId: TimelineId, epoch: WriterEpoch): Promise<void> {
    await this.call("DELETE", `${this.timelinePath(timelineId)}/writer/${epoch}`, {
      timeoutMs: LONG_TIMEOUT_MS,
    });
  }

  /** Until everything up to `lsn` is ingested and durable; throws `timeout` after `timeoutMs`. */
  async waitForLsn(timelineId: TimelineId, lsn: Lsn, timeoutMs: number): Promise<void> {
    await this.call("POST", `${this.timelinePath(timelineId)}/wait`, {
      body: { lsn: formatLsn(lsn), timeout_ms: timeoutMs },
      timeoutMs: timeoutMs + TIMEOUT_MS,
    });
  }

  /** A data directory at `lsn` (the end of the timeline if not given) as a tar stream; the caller must consume it. */
  async baseBackup(
    timelineId: TimelineId,
    options: { lsn?: Lsn | undefined; readOnly: boolean; signal?: AbortSignal },
  ): Promise<BaseBackup> {
    const query = new URLSearchParams({ read_only: String(options.readOnly) });
    if (options.lsn !== undefined) query.set("lsn", formatLsn(options.lsn));
    const answer = await sendRequest(this.target, {
      method: "GET",
      path: `${this.timelinePath(timelineId)}/basebackup?${query.toString()}`,
      timeoutMs: LONG_TIMEOUT_MS,
      signal: options.signal,
    });
    const lsn = headerLsn(answer.headers["x-neon-lsn"]);
    if (lsn === undefined) {
      await readBody(answer).catch(() => "");
      throw new NeonError(ErrorCode.Unreachable, "the pageserver sent a base backup without its LSN");
    }
    return {
      lsn,
      previousLsn: headerLsn(answer.headers["x-neon-previous-lsn"]),
      stream: readStream(this.target, answer),
    };
  }

  /** How stock Postgres gets to LSNs, or to so many samples, from the first checkpoint at or behind `fromLsn`. */
  async planRecovery(
    timelineId: TimelineId,
    options: { fromLsn: Lsn | undefined; at: readonly Lsn[] | number },
  ): Promise<RecoveryPlan> {
    const { fromLsn, at } = options;
    const answer = await this.call("POST", `${this.timelinePath(timelineId)}/recovery`, {
      body: {
        ...(typeof at === "number" ? { samples: at } : { lsns: at.map((lsn) => formatLsn(lsn)) }),
        ...(fromLsn === undefined ? {} : { from: formatLsn(fromLsn) }),
      },
      timeoutMs: LONG_TIMEOUT_MS,
    });
    return recoveryPlanOf(answer);
  }

  /** The data directory from which stock Postgres gets to `lsn`, as a tar stream; the caller must consume it. */
  async recoveryBackup(
    timelineId: TimelineId,
    options: { checkpointLsn: Lsn; lsn: Lsn; signal?: AbortSignal | undefined },
  ): Promise<AsyncIterable<Uint8Array>> {
    const query = new URLSearchParams({
      checkpoint: formatLsn(options.checkpointLsn),
      lsn: formatLsn(options.lsn),
    });
    const answer = await sendRequest(this.target, {
      method: "GET",
      path: `${this.timelinePath(timelineId)}/recovery?${query.toString()}`,
      timeoutMs: LONG_TIMEOUT_MS,
      signal: options.signal,
    });
    return readStream(this.target, answer);
  }

  /**
   * Has the server compare the data directory of a compute that was stopped at `lsn`, or with `recovered` of one that
   * stock recovery has brought there. It must be able to read it.
   */
  async verifyDirectory(
    timelineId: TimelineId,
    options: {
      directory: string;
      lsn: Lsn;
      recovered?: boolean | undefined;
      progress?: ((pages: number) => void) | undefined;
      signal?: AbortSignal | undefined;
    },
  ): Promise<Verification> {
    const result = await requestJsonLines(
      this.target,
      {
        method: "POST",
        path: `${this.timelinePath(timelineId)}/verify`,
        body: {
          directory: options.directory,
          lsn: formatLsn(options.lsn),
          ...(options.recovered ? { recovered: true } : {}),
        },
        timeoutMs: LONG_TIMEOUT_MS,
        signal: options.signal,
      },
      (value) => {
        const { pages } = asObject(value, "progress");
        if (typeof pages === "number") options.progress?.(pages);
      },
    );
    return verificationOf(asObject(result, "result"));
  }

  tenantPath(rest: string): string {
    return `/v1/tenant/${this.tenantId}${rest}`;
  }

  private branchPath(name: string): string {
    return this.tenantPath(`/branch/${encodeURIComponent(name)}`);
  }

  private timelinePath(timelineId: TimelineId): string {
    return this.tenantPath(`/timeline/${timelineId}`);
  }

  private async call(
    method: HttpCall["method"],
    path: string,
    options: Partial<Pick<HttpCall, "body" | "upload" | "timeoutMs" | "signal">> = {},
  ): Promise<JsonObject> {
    const answer = await requestJson(this.target, {
      method,
      path,
      timeoutMs: this.timeoutMs,
      ...options,
    });
    return asObject(answer, "answer");
  }
}

function headerLsn(value: string | string[] | undefined): Lsn | undefined {
  return typeof value === "string" ? parseLsn(value) : undefined;
}

function tenantOf(value: unknown): TenantInfo {
  const object = asObject(value, "tenant");
  return {
    tenantId: parseTenantId(textField(object, "tenant_id")),
    pgVersion: optionalNumberField(object, "pg_version"),
    state: textField(asObject(object["state"], "state"), "slug").toLowerCase(),
    error: optionalTextField(object, "error"),
  };
}

function ancestorOf(value: unknown): AncestorInfo | null {
  if (value === null || value === undefined) return null;
  const object = asObject(value, "ancestor");
  return {
    name: optionalTextField(object, "name"),
    timelineId: timelineIdField(object, "timeline_id"),
    lsn: lsnField(object, "lsn"),
  };
}

function writerOf(value: unknown): WriterInfo | null {
  if (value === null || value === undefined) return null;
  const object = asObject(value, "writer");
  return {
    name: textField(object, "name"),
    epoch: writerEpochField(object, "epoch"),
    state: textField(object, "state"),
    error: optionalTextField(object, "error"),
  };
}

function branchOf(object: JsonObject): BranchInfo {
  return {
    name: textField(object, "name"),
    timelineId: timelineIdField(object, "timeline_id"),
    ancestor: ancestorOf(object["ancestor"]),
    lastRecordLsn: lsnField(object, "last_record_lsn"),
    durableLsn: lsnField(object, "durable_lsn"),
    state: textField(object, "state"),
    error: optionalTextField(object, "error"),
    lagBytes: optionalNumberField(object, "lag_bytes"),
    writer: writerOf(object["writer"]),
    createdAt: optionalTextField(object, "created_at"),
    physicalBytes: optionalNumberField(object, "physical_bytes"),
    followers: followersOf(object),
    lineage: optionalLineageField(object, "lineage"),
  };
}
