/**
 * The side that has the data: finds out what the other lacks, and sends it. Chunks are read, hashed and compressed a few
 * ahead, and at most a window of them is under way without having been confirmed.
 */
import { createHash } from "node:crypto";
import { ErrorCode, NeonError, corrupt } from "../../base/errors.ts";
import { type TenantId, type TimelineId, bytesToHex, newTimelineId } from "../../base/ids.ts";
import type { Lineage } from "../../base/lineage.ts";
import type { Lsn } from "../../base/lsn.ts";
import type { Files, Random } from "../../base/seams.ts";
import { readExactly } from "../../storage/read-file.ts";
import { JsonFields } from "../json-fields.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import type { Tenant } from "../timeline/tenant.ts";
import { type Decision, decide } from "./decide.ts";
import { lineageDigest, lineageOf, parseDescription } from "./description.ts";
import { type ExportedStep, Exporter, withoutRepeats } from "./export.ts";
import { DIGEST_SIZE, FrameType, encodeChunk, encodeLayerEnd, sha256 } from "./frames.ts";
import { HeldChain } from "./held-chain.ts";
import { type Operation, makeIdentity } from "./identity.ts";
import { CHUNK_SIZE, LAYERS_MAX, WINDOW_CHUNKS } from "./limits.ts";
import type { Peer } from "./peer.ts";
import { type PlannedLayer, chunkCount, chunkSize, planBytes, renderPlan } from "./plan.ts";

/** Chunks that are read and compressed before they can be sent. */
const PREPARED_MAX = 4;

export interface TransferProgress {
  readonly phase: "compare" | "prepare" | "send" | "receive" | "verify" | "publish";
  /** Of layer files, uncompressed. */
  readonly bytes: number;
  readonly total: number;
}

export interface TransferOutcome {
  readonly result: "created" | "updated" | "unchanged";
  /** Up to here both had the same before; undefined if the receiver had nothing. */
  readonly fromLsn: Lsn | undefined;
  readonly toLsn: Lsn;
  /** What was sent, or would be. */
  readonly layers: number;
  readonly layerBytes: number;
  readonly lineage: Lineage;
}

export interface SenderOptions {
  readonly operation: Operation;
  readonly tenantId: TenantId;
  readonly tenant: Tenant<ServedTimeline>;
  /** What is sent. */
  readonly timelineId: TimelineId;
  /** Says what would be sent, and sends nothing. */
  readonly dryRun: boolean;
  /** For files that are made for the purpose; does not exist. */
  readonly scratchDirectory: string;
  readonly signal: AbortSignal;
  readonly progress: (progress: TransferProgress) => void;
}

export interface SenderDependencies {
  readonly files: Files;
  readonly random: Random;
}

/** Throws `conflict` where the other side's branch cannot be brought up to this one. */
export async function send(
  peer: Peer,
  options: SenderOptions,
  dependencies: SenderDependencies,
): Promise<TransferOutcome> {
  const { tenant, timelineId, operation } = options;
  const identity = makeIdentity(operation, options.tenantId, tenant.timeline(timelineId).cluster);
  await peer.greet(identity);
  const target = new JsonFields(await peer.expect(FrameType.Target), "target", (message) => corrupt(message));
  const branch = target.text("branch");
  using held = await HeldChain.take(tenant, timelineId);
  const ours = held.view;
  const lineage = lineageOf(ours, timelineId);
  if (target.optionalText("digest") === lineageDigest(lineage)) return unchanged(peer, lineage);
  await peer.send(FrameType.Ask, {});
  options.progress({ phase: "compare", bytes: 0, total: 0 });
  const theirs = parseDescription(await peer.expect(FrameType.Description));
  const decision = decide({
    operation,
    ours,
    timelineId,
    branch,
    theirs,
    newTimelineId: () => newTimelineId(dependencies.random),
  });
  if (decision.kind === "equal") return unchanged(peer, lineage);
  return new Sending(peer, options, dependencies).run(decision, held, lineage);
}

async function unchanged(peer: Peer, lineage: Lineage): Promise<TransferOutcome> {
  await peer.send(FrameType.Commit, { action: "nothing" });
  await peer.expect(FrameType.Result);
  const { endLsn } = lineage;
  return { result: "unchanged", fromLsn: endLsn, toLsn: endLsn, layers: 0, layerBytes: 0, lineage };
}

interface Job {
  readonly planned: PlannedLayer;
  readonly path: string;
  /** Position in the plan. */
  readonly layer: number;
  /** Chunks that the receiver has, and what they are. */
  readonly staged: { readonly chunks: number; readonly digest: string } | undefined;
}

class Sending {
  private readonly peer: Peer;
  private readonly options: SenderOptions;
  private readonly dependencies: SenderDependencies;
  private sentFrames = 0;
  private ackedFrames = 0;
  private bytes = 0;
  private total = 0;
  private wake: (() => void) | undefined;
  private result: unknown;
  private failure: unknown;

  constructor(peer: Peer, options: SenderOptions, dependencies: SenderDependencies) {
    this.peer = peer;
    this.options = options;
    this.dependencies = dependencies;
  }

  async run(
    decision: Extract<Decision, { kind: "transfer" }>,
    held: HeldChain,
    lineage: Lineage,
  ): Promise<TransferOutcome> {
    const { signal, dryRun, tenant, scratchDirectory: directory } = this.options;
    const { files } = this.dependencies;
    await using exporter = new Exporter({ tenant, held, directory, files });
    const exported: ExportedStep[] = [];
    for (const step of decision.steps) exported.push(await exporter.export(step, signal));
    const steps = withoutRepeats(exported);
    const plan = { result: decision.result, commonLsn: decision.commonLsn, steps };
    this.total = planBytes(plan);
    const outcome: TransferOutcome = {
      result: decision.result,
      fromLsn: decision.commonLsn,
      toLsn: lineage.endLsn,
      layers: steps.reduce((count, step) => count + step.layers.length, 0),
      layerBytes: this.total,
      lineage,
    };
    if (dryRun) {
      await this.peer.send(FrameType.Commit, { action: "nothing" });
      await this.peer.expect(FrameType.Result);
      return outcome;
    }
    if (outcome.layers > LAYERS_MAX) {
      throw new NeonError(ErrorCode.Unsupported, `${outcome.layers} layers are too many for one transfer`, {
        hint: "`neon compact` makes fewer of them.",
      });
    }
    await this.peer.send(FrameType.Plan, renderPlan(plan));
    const resume = parseResume(await this.peer.expect(FrameType.Resume));
    if (resume === undefined) return outcome;
    await this.sendLayers(steps, resume);
    return outcome;
  }

  private async sendLayers(steps: readonly ExportedStep[], resume: Resume): Promise<void> {
    const reading = this.read();
    reading.catch(() => undefined);
    try {
      let layer = 0;
      for (const step of steps) {
        for (const [index, planned] of step.layers.entries()) {
          const path = step.paths[index] as string;
          await this.sendLayer({ planned, path, layer, staged: resume.get(layer) });
          layer++;
        }
      }
      await this.peer.send(FrameType.Commit, { action: "publish" });
    } catch (error) {
      // If the other side has given its reason, that is the one to report.
      throw this.failure ?? error;
    }
    await reading;
  }

  /** Takes in what the other side says while we send. */
  private async read(): Promise<void> {
    try {
      while (this.result === undefined) {
        const message = await this.peer.next();
        if (message.type === FrameType.Ack) {
          if (message.count > this.sentFrames) throw corrupt("more is confirmed than was sent");
          this.ackedFrames = message.count;
          this.wake?.();
        } else if (message.type === FrameType.Progress) {
          this.progress("verify", message.value);
        } else if (message.type === FrameType.Result) {
          this.result = message.value ?? null;
        } else {
          throw corrupt(`message ${message.type} comes while layers are sent`, { type: message.type });
        }
      }
    } catch (error) {
      this.failure = error;
      this.wake?.();
      throw error;
    }
  }

  private progress(phase: TransferProgress["phase"], value?: unknown): void {
    let { bytes } = this;
    if (value !== undefined) {
      const fields = new JsonFields(value, "progress", (message) => corrupt(message));
      bytes = fields.integer("bytes", { min: 0, max: Number.MAX_SAFE_INTEGER });
    }
    this.options.progress({ phase, bytes, total: this.total });
  }

  private async sendLayer(job: Job): Promise<void> {
    const { files } = this.dependencies;
    const { sizeBytes } = job.planned.descriptor;
    const count = chunkCount(sizeBytes);
    const handle = await files.open(job.path, "r");
    const digests: Uint8Array[] = [];
    const hashed = async (chunk: number): Promise<Uint8Array> => {
      const bytes = await readExactly(handle, chunk * CHUNK_SIZE, chunkSize(sizeBytes, chunk), job.path);
      digests[chunk] = sha256(bytes);
      return bytes;
    };
    const prepare = async (chunk: number): Promise<Uint8Array> => {
      const bytes = await hashed(chunk);
      return encodeChunk({ layer: job.layer, chunk, bytes }, digests[chunk] as Uint8Array);
    };
    const prepared: Promise<Uint8Array>[] = [];
    try {
      let next = await this.firstMissing(job, hashed, digests);
      this.bytes += Math.min(next * CHUNK_SIZE, sizeBytes);
      for (let sent = next; sent < count; sent++) {
        for (; next < count && prepared.length < PREPARED_MAX; next++) prepared.push(prepare(next));
        for (const waiting of prepared) waiting.catch(() => undefined);
        const frame = (await prepared.shift()) as Uint8Array;
        await this.room();
        await this.sendFrame(frame);
        this.bytes += chunkSize(sizeBytes, sent);
        this.progress("send");
      }
      await this.room();
      await this.sendFrame(encodeLayerEnd(job.layer, layerDigest(digests)));
    } finally {
      await Promise.allSettled(prepared);
      await handle.close();
    }
  }

  /** The first chunk that the receiver lacks: 0 if what it has is something else. */
  private async firstMissing(
    { staged, planned }: Job,
    hash: (chunk: number) => Promise<unknown>,
    digests: readonly Uint8Array[],
  ): Promise<number> {
    if (staged === undefined || staged.chunks > chunkCount(planned.descriptor.sizeBytes)) return 0;
    for (let chunk = 0; chunk < staged.chunks; chunk++) {
      this.options.signal.throwIfAborted();
      await hash(chunk);
    }
    const isSame = bytesToHex(layerDigest(digests.slice(0, staged.chunks))) === staged.digest;
    return isSame ? staged.chunks : 0;
  }

  private async sendFrame(frame: Uint8Array): Promise<void> {
    this.sentFrames++;
    await this.peer.channel.send(frame);
  }

  /** Until fewer than a window of frames are unconfirmed. */
  private async room(): Promise<void> {
    for (;;) {
      this.options.signal.throwIfAborted();
      if (this.failure !== undefined) throw this.failure;
      if (this.sentFrames - this.ackedFrames < WINDOW_CHUNKS) return;
      const { promise, resolve } = Promise.withResolvers<void>();
      this.wake = resolve;
      await promise;
    }
  }
}

/** Stands for a whole file, or a number of whole chunks at its beginning. */
export function layerDigest(chunkDigests: readonly Uint8Array[]): Uint8Array {
  const hash = createHash("sha256");
  for (const digest of chunkDigests) hash.update(digest);
  return new Uint8Array(hash.digest());
}

type Resume = ReadonlyMap<number, { readonly chunks: number; readonly digest: string }>;

const DIGEST_TEXT = new RegExp(`^[0-9a-f]{${DIGEST_SIZE * 2}}$`);

/** What the receiver has already; undefined if it only wanted to know. */
function parseResume(value: unknown): Resume | undefined {
  const fields = new JsonFields(value, "resume", (message) => corrupt(message));
  if (fields.boolean("only_asking")) return undefined;
  const resume = new Map<number, { chunks: number; digest: string }>();
  for (const entry of fields.objects("layers")) {
    const digest = entry.text("digest");
    if (!DIGEST_TEXT.test(digest)) throw entry.wrong("digest", "must be a SHA-256");
    resume.set(entry.integer("layer", { min: 0, max: LAYERS_MAX }), {
      chunks: entry.integer("chunks", { min: 1, max: 2 ** 32 }),
      digest,
    });
  }
  return resume;
}
