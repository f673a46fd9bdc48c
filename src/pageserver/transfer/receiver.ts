/**
 * The side that gets the data. Nothing of what arrives counts before all of it is here and has been verified; until then
 * it lies in a staging area. Chunks are decompressed a few ahead of the one that is being written.
 */
import { ErrorCode, NeonError, corrupt, messageOf } from "../../base/errors.ts";
import type { TenantId } from "../../base/ids.ts";
import type { Clock, Files } from "../../base/seams.ts";
import { formatLsn } from "../../base/lsn.ts";
import { JsonFields } from "../json-fields.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import type { Tenants } from "../timeline/tenants.ts";
import { lineageDigest, lineageOf, namedTimeline, renderDescription } from "./description.ts";
import { type Chunk, FrameType, type Message, decodeChunk, encodeAck } from "./frames.ts";
import { type Operation, type PeerIdentity, makeIdentity } from "./identity.ts";
import { WINDOW_CHUNKS } from "./limits.ts";
import type { Peer } from "./peer.ts";
import { type TransferPlan, parsePlan, planBytes, planLayers } from "./plan.ts";
import { checkPlan, publish, tenantIfAny } from "./publish.ts";
import type { TransferProgress } from "./sender.ts";
import type { Staging, StagingClaims } from "./staging.ts";
import { viewTenant } from "./tenant-view.ts";
import { verifyLayers } from "./verify-layers.ts";

export interface ReceiverOptions {
  readonly operation: Operation;
  readonly tenantId: TenantId;
  /** What the data will be named here. */
  readonly branch: string;
  /** Says what would be sent, and takes nothing. */
  readonly dryRun: boolean;
  readonly signal: AbortSignal;
  readonly progress: (progress: TransferProgress) => void;
}

export interface ReceiverDependencies {
  readonly tenants: Tenants<ServedTimeline>;
  readonly files: Files;
  readonly clock: Clock;
  readonly claims: StagingClaims;
  readonly log: { info(data: object, message: string): void; warn(data: object, message: string): void };
}

export interface ReceiverOutcome {
  readonly result: "created" | "updated" | "unchanged";
  readonly plan: TransferPlan | undefined;
}

/** What goes wrong after everything has arrived says that it is not worth keeping. */
const HOPELESS: ReadonlySet<string> = new Set([ErrorCode.Corrupt, ErrorCode.Resource, ErrorCode.Unsupported]);

export async function receive(
  peer: Peer,
  options: ReceiverOptions,
  dependencies: ReceiverDependencies,
): Promise<ReceiverOutcome> {
  const { operation, tenantId, branch } = options;
  const tenant = tenantIfAny(dependencies.tenants, tenantId);
  const sender = await peer.greet(makeIdentity(operation, tenantId, tenant?.cluster));
  if (!sender.cluster) throw corrupt("the sender does not say which cluster it has");
  const named = tenant && namedTimeline(viewTenant(tenant), branch);
  const lineage = tenant && named && lineageOf(viewTenant(tenant), named.id);
  await peer.send(FrameType.Target, {
    branch,
    digest: lineage ? lineageDigest(lineage) : null,
    end: lineage ? formatLsn(lineage.endLsn) : null,
  });
  return new Receiving(peer, options, dependencies, sender).run();
}

class Receiving {
  private readonly peer: Peer;
  private readonly options: ReceiverOptions;
  private readonly dependencies: ReceiverDependencies;
  private readonly sender: PeerIdentity;
  private takenFrames = 0;
  private total = 0;

  constructor(
    peer: Peer,
    options: ReceiverOptions,
    dependencies: ReceiverDependencies,
    sender: PeerIdentity,
  ) {
    this.peer = peer;
    this.options = options;
    this.dependencies = dependencies;
    this.sender = sender;
  }

  async run(): Promise<ReceiverOutcome> {
    let message = await this.peer.next();
    if (message.type === FrameType.Ask) {
      await this.peer.send(FrameType.Description, renderDescription(this.view()));
      message = await this.peer.next();
    }
    if (message.type === FrameType.Commit) {
      if (actionOf(message.value) !== "nothing") throw corrupt("there is nothing to be published");
      await this.peer.send(FrameType.Result, {});
      return { result: "unchanged", plan: undefined };
    }
    if (message.type !== FrameType.Plan) throw corrupt(`message ${message.type} comes instead of a plan`);
    const plan = parsePlan(message.value);
    if (this.options.dryRun) {
      await this.peer.send(FrameType.Resume, { only_asking: true, layers: [] });
      return { result: plan.result, plan };
    }
    checkPlan(plan, this.view(), this.options);
    await this.take(plan);
    return { result: plan.result, plan };
  }

  private view(): ReturnType<typeof viewTenant> {
    const tenant = tenantIfAny(this.dependencies.tenants, this.options.tenantId);
    return tenant ? viewTenant(tenant) : new Map();
  }

  private async take(plan: TransferPlan): Promise<void> {
    const { tenantId, branch, signal } = this.options;
    const { claims } = this.dependencies;
    await using staging = claims.claim(tenantId, branch);
    this.total = planBytes(plan);
    let isHere = false;
    try {
      await staging.open(planLayers(plan), signal);
      await this.peer.send(FrameType.Resume, { only_asking: false, layers: staging.arrived() });
      await this.takeLayers(staging);
      isHere = true;
      await this.publish(plan, staging);
      await staging.remove();
    } catch (error) {
      const code = error instanceof NeonError ? error.code : undefined;
      const isHopeless = code === ErrorCode.Resource || (isHere && code !== undefined && HOPELESS.has(code));
      if (isHopeless) {
        await staging.remove().catch((reason: unknown) => {
          this.dependencies.log.warn(
            { error: messageOf(reason), tenant: tenantId },
            "give back staged space",
          );
        });
      }
      throw error;
    }
    await this.peer.send(FrameType.Result, {});
  }

  private async takeLayers(staging: Staging): Promise<void> {
    let bytes = staging.arrivedBytes;
    const { signal } = this.options;
    const queue: (Promise<Chunk> | Extract<Message, { type: typeof FrameType.LayerEnd }>)[] = [];
    const takeFirst = async (): Promise<void> => {
      const first = await queue.shift();
      if (first === undefined) return;
      if ("bytes" in first) {
        await staging.add(first);
        bytes += first.bytes.length;
        this.options.progress({ phase: "receive", bytes, total: this.total });
      } else {
        await staging.finish(first.layer, first.digest);
      }
      this.takenFrames++;
      await this.peer.channel.send(encodeAck(this.takenFrames));
    };
    try {
      for (;;) {
        signal.throwIfAborted();
        const message = await this.nextWhile(queue, takeFirst);
        if (message.type === FrameType.Commit) {
          if (actionOf(message.value) !== "publish")
            throw corrupt("the sender does not want it to be published");
          break;
        }
        if (message.type === FrameType.Chunk) queue.push(decoding(message.frame));
        else if (message.type === FrameType.LayerEnd) queue.push(message);
        else throw corrupt(`message ${message.type} comes where layers are expected`, { type: message.type });
        if (queue.length >= WINDOW_CHUNKS) await takeFirst();
      }
      while (queue.length > 0) await takeFirst();
    } catch (error) {
      // What has arrived whole is kept, so that it need not be sent again.
      while (queue.length > 0) await takeFirst().catch(() => (queue.length = 0));
      throw error;
    }
  }

  /** The next message; what has arrived is worked on while it is waited for. */
  private async nextWhile(queue: unknown[], takeFirst: () => Promise<void>): Promise<Message> {
    let message: Message | undefined;
    const coming = this.peer.next().then((next) => {
      message = next;
      return next;
    });
    coming.catch(() => undefined);
    while (queue.length > 0 && message === undefined) await takeFirst();
    return coming;
  }

  private async publish(plan: TransferPlan, staging: Staging): Promise<void> {
    const { signal, tenantId, branch } = this.options;
    const { tenants, files, clock, log } = this.dependencies;
    const paths = await staging.complete();
    const layers = planLayers(plan).map(({ descriptor }, index) => ({
      path: paths[index] as string,
      descriptor,
    }));
    await verifyLayers(layers, files, {
      signal,
      progress: (bytes) => {
        this.options.progress({ phase: "verify", bytes, total: this.total });
        void this.peer.send(FrameType.Progress, { bytes }).catch(() => undefined);
      },
    });
    signal.throwIfAborted();
    this.options.progress({ phase: "publish", bytes: this.total, total: this.total });
    const { cluster } = this.sender;
    if (!cluster) throw corrupt("the sender does not say which cluster it has");
    await publish(
      plan,
      {
        tenantId,
        branch,
        cluster,
        operation: this.options.operation,
        paths,
        trialDirectory: staging.directory,
      },
      { tenants, files, clock },
    );
    log.info({ tenant: tenantId, branch, bytes: this.total }, "a branch was received");
  }
}

function decoding(frame: Uint8Array): Promise<Chunk> {
  const chunk = decodeChunk(frame);
  // It counts when its turn comes.
  chunk.catch(() => undefined);
  return chunk;
}

function actionOf(value: unknown): string {
  return new JsonFields(value, "commit", (message) => corrupt(message)).text("action");
}
