/** The gRPC side of the pageserver: the page service behind a port, with health and reflection. */
import type { Socket } from "node:net";
import type { Logger } from "pino";
import type { NeonError } from "../../../base/errors.ts";
import { UNSHARDED } from "../../../base/page-api/shard.ts";
import { isLoopback } from "../../../pgwire/loopback.ts";
import type { ServerTls } from "../../../pgwire/server-startup.ts";
import type { PageReaders } from "../../read/timeline-pages.ts";
import type { ServedTimeline } from "../../timeline/served-timeline.ts";
import type { Tenants } from "../../timeline/tenants.ts";
import type { Authentication } from "../authentication.ts";
import { AuthenticationError, type Refusal } from "../authentication-error.ts";
import { Front } from "../front.ts";
import type { Metrics } from "../metrics.ts";
import { ByteSlab } from "./byte-slab.ts";
import type { Authenticate } from "./call-target.ts";
import type { GrpcCall } from "./grpc-call.ts";
import { GrpcServer, type GrpcServerLimits } from "./grpc-server.ts";
import { GrpcCode, GrpcError, type GrpcStatus, grpcCodeName } from "./grpc-status.ts";
import { Health } from "./health-method.ts";
import type { PageContext } from "./page-context.ts";
import { grpcMethods } from "./page-service.ts";
import { RateLimit } from "./rate-limit.ts";
import { RequestScheduler, type SchedulerLimits } from "./request-scheduler.ts";
import { Turn } from "./turn.ts";
import { UNARY_METHODS } from "./unary-methods.ts";

export interface GrpcServiceOptions {
  readonly host: string;
  readonly port: number;
  /** Lets clients of other machines in without encryption. */
  readonly insecure: boolean;
  /** Pages that a tenant may read per second; 0: as many as it likes. */
  readonly pageRateLimit: number;
  readonly limits?: Partial<GrpcLimits>;
}

export interface GrpcServiceDependencies {
  readonly tenants: Tenants<ServedTimeline>;
  readonly readers: PageReaders;
  readonly metrics: Metrics;
  readonly log: Logger;
  readonly authentication: Authentication;
  readonly tls: () => ServerTls | undefined;
  readonly now: () => number;
  /** Which shard of a tenant is here; none is sharded unless this says so. */
  readonly shardOf?: PageContext["shardOf"];
}

export interface GrpcLimits extends GrpcServerLimits {
  readonly connectionsMax: number;
  readonly scheduler: SchedulerLimits;
  /** Sent to all clients together and not taken by them: beyond, requests for pages are told to wait. */
  readonly congestionBytes: number;
}

const MIB = 1024 * 1024;
const SLAB_BYTES = 64 * 1024;

export const GRPC_LIMITS: GrpcLimits = {
  connectionsMax: 1000,
  callsMax: 4000,
  streamsPerSessionMax: 256,
  headerBytesMax: 16 * 1024,
  messageSizeMax: 64 * 1024,
  unsentBytesMax: MIB / 2,
  congestionBytes: 256 * MIB,
  stallMs: 120_000,
  pingAfterMs: 30_000,
  pingTimeoutMs: 20_000,
  sessionIdleMs: 600_000,
  sweepMs: 5000,
  scheduler: { running: 16, waiting: 4096 },
};

/** Those that end by themselves. */
const TIMED_METHODS: ReadonlySet<string> = new Set([...UNARY_METHODS, "GetBaseBackup"]);

/** Failures that whoever runs the pageserver should know of. */
const OWN_FAILURES: ReadonlySet<GrpcCode> = new Set([GrpcCode.Internal, GrpcCode.DataLoss, GrpcCode.Unknown]);

export class GrpcService implements AsyncDisposable {
  private readonly log: Logger;
  private readonly metrics: Metrics;
  private readonly limits: GrpcLimits;
  private readonly front: Front;
  private readonly server: GrpcServer;
  private readonly health: Health;
  private isReady = false;

  constructor(options: GrpcServiceOptions, dependencies: GrpcServiceDependencies) {
    const limits = { ...GRPC_LIMITS, ...options.limits };
    this.limits = limits;
    this.log = dependencies.log;
    this.metrics = dependencies.metrics;
    this.health = new Health(() => this.isReady);
    const scheduler = new RequestScheduler(limits.scheduler);
    const context: PageContext = {
      ...dependencies,
      scheduler,
      rateLimit: new RateLimit(options.pageRateLimit),
      turn: new Turn(),
      slab: new ByteSlab(SLAB_BYTES),
      authenticate: authenticateBy(dependencies.authentication),
      isReady: () => this.isReady,
      shardOf: dependencies.shardOf ?? (() => UNSHARDED),
      isCongested: () => this.server.unsentBytes >= this.limits.congestionBytes,
    };
    this.server = new GrpcServer(limits, {
      methods: grpcMethods(context, this.health),
      onEnd: (call, status, error) => this.onEnd(call, status, error),
    });
    this.front = new Front(
      {
        host: options.host,
        port: options.port,
        setting: "pageserver.listen_grpc",
        insecure: options.insecure,
        alpn: ["h2"],
        connectionsMax: limits.connectionsMax,
      },
      {
        tls: dependencies.tls,
        onConnection: (socket) => this.onConnection(socket),
        onFailure: (error, peer) => this.onFailure(error, peer),
      },
    );
    this.addGauges(dependencies.metrics, scheduler);
  }

  /** Throws `resource` when the port is taken. */
  listen(): Promise<void> {
    return this.front.listen();
  }

  get port(): number {
    return this.front.port;
  }

  get connectionCount(): number {
    return this.front.connectionCount;
  }

  get callCount(): number {
    return this.server.callCount;
  }

  /** From now on calls are answered. */
  ready(): void {
    this.isReady = true;
    this.health.changed();
  }

  async stop(graceMs: number): Promise<void> {
    this.isReady = false;
    this.health.changed();
    const closed = this.front.close();
    await this.server.stop(graceMs);
    this.front.destroyConnections();
    await closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop(0);
  }

  private onConnection(socket: Socket): void {
    const address = socket.remoteAddress ?? "unknown";
    this.server.serve(socket, { address, loopback: isLoopback(address) });
  }

  private onFailure(error: NeonError, peer: string): void {
    this.log.info({ peer, err: error }, "gRPC connection ended");
  }

  private onEnd(call: GrpcCall, { code, details }: GrpcStatus, error: unknown): void {
    const method = call.path.slice(call.path.lastIndexOf("/") + 1);
    const about = { method, status: grpcCodeName(code) };
    this.count(call, method, code);
    if (OWN_FAILURES.has(code)) this.log.error({ ...about, err: error }, `gRPC call failed: ${details}`);
    else if (code === GrpcCode.Ok || code === GrpcCode.Cancelled) this.log.debug(about, "gRPC call");
    else this.log.info(about, `gRPC call refused: ${details}`);
  }

  /** Requests of streams of pages are counted one by one; of the stream itself only that it was not opened, or broke. */
  private count(call: GrpcCall, method: string, code: GrpcCode): void {
    const wellEnded = code === GrpcCode.Ok || code === GrpcCode.Cancelled;
    if (method === "GetPages" && wellEnded) return;
    this.metrics.grpcRequests.add({ method, status: grpcCodeName(code) });
    if (!TIMED_METHODS.has(method)) return;
    this.metrics.grpcDurations.observe({ method }, (performance.now() - call.startedAt) / 1000);
  }

  private addGauges(metrics: Metrics, scheduler: RequestScheduler): void {
    metrics.addGauge({
      name: "neon_grpc_connections",
      help: "Clients connected over gRPC.",
      read: () => [[{}, this.connectionCount]],
    });
    metrics.addGauge({
      name: "neon_grpc_calls",
      help: "gRPC calls under way, idle streams included.",
      read: () => [[{}, this.callCount]],
    });
    metrics.addGauge({
      name: "neon_grpc_unsent_bytes",
      help: "Bytes sent over gRPC that clients have not taken yet.",
      read: () => [[{}, this.server.unsentBytes]],
    });
    metrics.addGauge({
      name: "neon_grpc_waiting_requests",
      help: "Requests over gRPC that wait for their turn, by class.",
      read: () =>
        (["normal", "prefetch", "background"] as const).map((lane) => [
          { class: lane },
          scheduler.waiting(lane),
        ]),
    });
  }
}

const CODES: Readonly<Record<Refusal, GrpcCode>> = {
  missing: GrpcCode.Unauthenticated,
  malformed: GrpcCode.InvalidArgument,
  unknown: GrpcCode.Unauthenticated,
  signature: GrpcCode.Unauthenticated,
  expired: GrpcCode.Unauthenticated,
  forbidden: GrpcCode.PermissionDenied,
};

function authenticateBy(authentication: Authentication): Authenticate {
  return async (authorization, peer) => {
    try {
      return await authentication.ofHeader(authorization, peer);
    } catch (error) {
      if (!(error instanceof AuthenticationError)) throw error;
      // Where tokens are JSON Web Tokens, one that is none is malformed.
      const isUndecodable = error.reason === "unknown" && authentication.takesTokens;
      throw new GrpcError(isUndecodable ? GrpcCode.InvalidArgument : CODES[error.reason], error.message, {
        ...(error.hint === undefined ? {} : { hint: error.hint }),
        cause: error,
      });
    }
  };
}
