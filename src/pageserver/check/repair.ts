/**
 * What can be done about what a check has found: leftovers are removed, and small files that cannot be read are
 * written again, from what the pageserver has in memory or from other files that say the same. What is whole is never
 * touched, and where there is a doubt nothing is done. A plan first; carried out only when that is asked for.
 */
import { basename, dirname, join } from "node:path";
import { messageOf } from "../../base/errors.ts";
import { type TimelineId, isId, parseTimelineId } from "../../base/ids.ts";
import type { Files } from "../../base/seams.ts";
import type { CheckOptions } from "../../storage/check-layer.ts";
import type { Finding } from "../../storage/findings.ts";
import { INDEX_FILE_NAME, TEMPORARY_SUFFIX as STORE_SUFFIX } from "../../storage/index-file.ts";
import { INDEX_COPY_NAME } from "../../storage/index-copy.ts";
import { isLayerSetFile } from "../../storage/layer-set.ts";
import { rebuildIndex, replaceIndex } from "../../storage/rebuild-index.ts";
import { IMAGE_RANGE } from "../ingest/keyspace.ts";
import { TEMPORARY_SUFFIX } from "../timeline/json-file.ts";
import { METADATA_FILE, readTimelineMetadata } from "../timeline/metadata.ts";
import { type Refs, refNameOfFile } from "../timeline/refs.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import type { Timelines } from "../timeline/timelines.ts";
import type { TenantReport } from "./check-tenant.ts";

/** One thing that can be done, or was done. */
export interface RepairStep {
  /** Of the finding that it is about. */
  readonly kind: Finding["kind"];
  /** What is done, as a sentence without its subject: "removed: …". */
  readonly what: string;
  readonly file: string;
  /** Why it failed; undefined if it was done, or not tried. */
  readonly error?: string | undefined;
}

export interface RepairReport {
  /** Whether the steps were carried out. */
  readonly applied: boolean;
  readonly steps: readonly RepairStep[];
  /** What was found and nothing is done about, with the reason in `what`. */
  readonly left: readonly Finding[];
}

export interface RepairSubject<T extends ServedTimeline> {
  /** Of the tenant. */
  readonly directory: string;
  readonly tenantFile: string;
  readonly refs: Refs;
  readonly timelines: Timelines<T>;
  /** Writes tenant.json from memory. */
  readonly writeTenantFile: () => Promise<void>;
}

interface PlannedStep {
  readonly what: string;
  readonly file: string;
  readonly run: () => Promise<void>;
}

/** What can be done about a finding, or why nothing can. */
type Remedy = PlannedStep | string;

/** Plans, and carries out if `apply`. To be called while no branch, writer or timeline is being changed. */
export async function repairTenant<T extends ServedTimeline>(
  subject: RepairSubject<T>,
  report: TenantReport,
  files: Files,
  options: CheckOptions & { readonly apply: boolean },
): Promise<RepairReport> {
  const plan = new RepairPlan(subject, files, options);
  const findings = [report.tenant, ...report.timelines].flatMap((part) => part.details);
  for (const finding of findings) await plan.consider(finding);
  const steps: RepairStep[] = [];
  for (const { kind, what, file, run } of plan.steps.values()) {
    options.signal?.throwIfAborted();
    let error: string | undefined;
    if (options.apply) await run().catch((reason: unknown) => (error = messageOf(reason)));
    steps.push({ kind, what, file, error });
  }
  return { applied: options.apply, steps, left: plan.left };
}

class RepairPlan<T extends ServedTimeline> {
  /** By file: several findings about one file need one step. */
  readonly steps = new Map<string, PlannedStep & { readonly kind: Finding["kind"] }>();
  readonly left: Finding[] = [];
  private readonly subject: RepairSubject<T>;
  private readonly files: Files;
  private readonly options: CheckOptions;

  constructor(subject: RepairSubject<T>, files: Files, options: CheckOptions) {
    this.subject = subject;
    this.files = files;
    this.options = options;
  }

  async consider(finding: Finding): Promise<void> {
    if (this.steps.has(finding.file)) return;
    const remedy = finding.kind === "garbage" ? this.remove(finding.file) : await this.mend(finding);
    if (typeof remedy === "string") this.left.push({ ...finding, what: `${finding.what}; ${remedy}` });
    else this.steps.set(finding.file, { ...remedy, kind: finding.kind });
  }

  /** A leftover, if it is one of ours and nobody uses it. */
  private remove(file: string): Remedy {
    const { directory, timelines } = this.subject;
    const id = this.timelineOf(file);
    const name = basename(file);
    const isOpen = id !== undefined && timelines.settled().get(id)?.kind === "open";
    if (id !== undefined && file === join(directory, "timelines", id)) {
      const what = "removes a timeline that nothing names";
      return { what, file, run: () => timelines.removeUnnamed(id, this.subject.refs) };
    }
    const parent = basename(dirname(file));
    const isLeftover =
      (name.endsWith(TEMPORARY_SUFFIX) && parent !== "wal" && parent !== "layers") ||
      (parent === "layers" && isLayerSetFile(name)) ||
      (parent === "wal" && name.endsWith(STORE_SUFFIX)) ||
      (parent === id && name.endsWith(STORE_SUFFIX));
    if (!isLeftover) {
      const isSegment = parent === "wal" && /^[0-9A-F]{24}$/.test(name);
      return isSegment && isOpen
        ? "the next layer that is written removes it"
        : "left alone, it may be somebody's";
    }
    return { what: "removes what nothing needs", file, run: () => this.files.remove(file) };
  }

  private async mend({ file, kind }: Finding): Promise<Remedy> {
    const { directory, tenantFile, refs, writeTenantFile } = this.subject;
    if (kind === "not_checked") return "remove the cause, and check again";
    if (file === join(directory, tenantFile)) {
      return { what: "writes it again, from memory", file, run: writeTenantFile };
    }
    if (dirname(file) === join(directory, "refs")) return this.mendRef(file, refs);
    const id = this.timelineOf(file);
    const entry = id === undefined ? undefined : this.subject.timelines.settled().get(id);
    const name = basename(file);
    if (
      entry?.kind === "open" &&
      [METADATA_FILE, INDEX_FILE_NAME, INDEX_COPY_NAME, "wal.durable"].includes(name)
    ) {
      const { timeline } = entry;
      return { what: "writes it again, from memory", file, run: () => timeline.rewriteFiles() };
    }
    if (id !== undefined && name === INDEX_FILE_NAME) return this.mendIndex(id, file);
    if (name === INDEX_COPY_NAME) return "it is written again when the timeline is opened";
    if (name === METADATA_FILE) return "what it said stands nowhere else";
    if (/\.(delta|image)$/.test(name))
      return "what it held stands nowhere else: branch off before it, or pull it again";
    return "nothing can be done about it here";
  }

  /** From memory, or to the one timeline that no other branch reaches, if this is the one branch that is damaged. */
  private async mendRef(file: string, refs: Refs): Promise<Remedy> {
    const name = refNameOfFile(basename(file));
    if (name === undefined) return "its name is not that of a branch";
    const known = refs.get(name);
    if (known !== undefined) {
      return { what: `names timeline ${known.timelineId} again`, file, run: () => refs.rewrite(name) };
    }
    if (!refs.damaged.has(name)) return "remove it if nobody misses it";
    if (refs.damaged.size > 1)
      return "several branches are damaged, and which timeline is whose stands nowhere else";
    const unnamed = await this.unnamedTimelines();
    const [only] = unnamed;
    if (only === undefined || unnamed.length > 1) {
      return `${unnamed.length} timelines have no branch, and which one is meant stands nowhere else`;
    }
    const what = `names timeline ${only}, the only one without a branch`;
    return { what, file, run: () => refs.restore(name, only) };
  }

  /** Timelines on disk that no branch reaches, without those that others of them branch from. */
  private async unnamedTimelines(): Promise<TimelineId[]> {
    const { directory, refs } = this.subject;
    const ancestorOf = new Map<TimelineId, TimelineId | undefined>();
    for (const name of await this.files.list(join(directory, "timelines"))) {
      if (!isId(name)) continue;
      const id = parseTimelineId(name);
      const metadata = await readTimelineMetadata(this.files, join(directory, "timelines", name), id).catch(
        () => undefined,
      );
      ancestorOf.set(id, metadata?.ancestor?.timelineId);
    }
    const reached = new Set<TimelineId>();
    for (const { timelineId } of refs.list()) {
      for (
        let id: TimelineId | undefined = timelineId;
        id !== undefined && !reached.has(id);
        id = ancestorOf.get(id)
      ) {
        reached.add(id);
      }
    }
    const free = [...ancestorOf.keys()].filter((id) => !reached.has(id));
    const ancestors = new Set(free.map((id) => ancestorOf.get(id)));
    return free.filter((id) => !ancestors.has(id));
  }

  private async mendIndex(id: TimelineId, file: string): Promise<Remedy> {
    const layers = dirname(file);
    let metadata;
    try {
      metadata = await readTimelineMetadata(this.files, dirname(layers), id);
    } catch (error) {
      return `it cannot be made again: ${messageOf(error)}`;
    }
    if (metadata === undefined) return "it cannot be made again without metadata.json";
    const startLsn = metadata.ancestor?.lsn;
    const imagesOf = metadata.ancestor === undefined ? IMAGE_RANGE : undefined;
    const rebuilt = await rebuildIndex(layers, { ...this.options, startLsn, imagesOf }, this.files);
    if (rebuilt.kind === "impossible") return `it cannot be made again: ${rebuilt.why}`;
    const { index, from } = rebuilt;
    const what =
      from === "copy"
        ? "makes it again from its copy"
        : `makes it again from ${index.layers.length} layer files`;
    return { what, file, run: () => replaceIndex(layers, index, this.files) };
  }

  private timelineOf(file: string): TimelineId | undefined {
    const root = join(this.subject.directory, "timelines");
    const name = file.startsWith(`${root}/`) ? file.slice(root.length + 1).split("/")[0] : undefined;
    return name !== undefined && isId(name) ? parseTimelineId(name) : undefined;
  }
}
