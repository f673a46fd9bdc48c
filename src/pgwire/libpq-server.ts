/** A listener for clients of the frontend/backend protocol: takes connections up to a limit, and stops in order. */
import { type AddressInfo, type Server, type Socket, createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { ErrorCode, type NeonError } from "../base/errors.ts";
import { SqlState } from "./errors.ts";
import { listenError } from "./listen-error.ts";
import { ServerConnection, type ServerContext, type ServerLimits } from "./server-connection.ts";
import { WireError, encodeError } from "./wire-errors.ts";

export const DEFAULT_LIMITS: ServerLimits = {
  startupTimeoutMs: 30_000,
  idleTimeoutMs: 10 * 60_000,
  writeStallMs: 120_000,
};
/** Connections at a time, idle ones included. */
export const CONNECTIONS_MAX = 4000;
/** After so much silence the operating system asks whether the other side still lives. */
const KEEPALIVE_MS = 60_000;

export interface LibpqServerOptions {
  readonly host: string;
  /** 0 lets the operating system choose. */
  readonly port: number;
  readonly limits?: Partial<ServerLimits>;
  readonly connectionsMax?: number;
}

export type LibpqServerDependencies<Identity> = Pick<
  ServerContext<Identity>,
  "backends" | "tls" | "random" | "onLogin"
> & {
  /** Told how a connection ended that did not end in order. */
  readonly onFailure: (error: unknown, peer: string) => void;
};

export class LibpqServer<Identity> implements AsyncDisposable {
  private readonly options: LibpqServerOptions;
  private readonly dependencies: LibpqServerDependencies<Identity>;
  private readonly server: Server;
  private readonly connections = new Map<number, ServerConnection<Identity>>();
  private readonly underWay = new Set<Promise<void>>();
  private nextProcessId = 1;

  constructor(options: LibpqServerOptions, dependencies: LibpqServerDependencies<Identity>) {
    this.options = options;
    this.dependencies = dependencies;
    this.server = createServer({ noDelay: true, keepAlive: true, keepAliveInitialDelay: KEEPALIVE_MS });
    this.server.on("connection", (socket) => this.accept(socket));
  }

  /** Throws `resource` when the port is taken or not ours to take. */
  async listen(): Promise<void> {
    const { host, port } = this.options;
    await new Promise<void>((resolve, reject) => {
      this.server.once("error", (error) =>
        reject(listenError({ host, port }, "pageserver.listen_libpq", error)),
      );
      this.server.listen({ host, port, exclusive: true }, () => resolve());
    });
    this.server.on("error", (error) => this.dependencies.onFailure(error, "listener"));
  }

  /** The port that it listens on. */
  get port(): number {
    const address: AddressInfo | string | null = this.server.address();
    return typeof address === "object" && address !== null ? address.port : this.options.port;
  }

  /** Clients that are connected now. */
  get connectionCount(): number {
    return this.connections.size;
  }

  /** Takes no new connections, tells those that there are to end, and cuts them after `graceMs`. */
  async stop(graceMs: number): Promise<void> {
    if (!this.server.listening) return;
    const closed = new Promise<void>((resolve) => this.server.close(() => resolve()));
    const reason = new WireError(
      SqlState.AdminShutdown,
      ErrorCode.Unreachable,
      "the pageserver is being stopped",
      { hint: "Connect again in a moment." },
    );
    for (const connection of this.connections.values()) connection.stop(reason);
    const grace = new AbortController();
    const timeUp = sleep(graceMs, undefined, { signal: grace.signal }).catch(() => undefined);
    await Promise.race([Promise.allSettled(this.underWay), timeUp]);
    grace.abort();
    for (const connection of this.connections.values()) connection.destroy();
    await Promise.allSettled(this.underWay);
    await closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop(0);
  }

  private accept(socket: Socket): void {
    // Whoever reads the socket gets the error as well; without a listener it would end the process.
    socket.on("error", () => undefined);
    const max = this.options.connectionsMax ?? CONNECTIONS_MAX;
    if (this.connections.size >= max) {
      socket.end(encodeError(tooManyConnections(max), "FATAL"));
      socket.destroySoon();
      return;
    }
    const processId = this.nextProcessId;
    this.nextProcessId = (processId % (2 ** 31 - 1)) + 1;
    const connection = new ServerConnection<Identity>(socket, processId, this.context());
    this.connections.set(processId, connection);
    const served = connection
      .serve()
      .catch((error: unknown) => this.dependencies.onFailure(error, connection.peer))
      .finally(() => {
        this.connections.delete(processId);
        this.underWay.delete(served);
      });
    this.underWay.add(served);
  }

  private context(): ServerContext<Identity> {
    const { backends, tls, random, onLogin } = this.dependencies;
    return {
      backends,
      tls,
      random,
      onLogin,
      limits: { ...DEFAULT_LIMITS, ...this.options.limits },
      cancel: (processId, secret) => this.cancel(processId, secret),
    };
  }

  private cancel(processId: number, secret: number): void {
    const connection = this.connections.get(processId);
    if (connection?.secret !== secret) return;
    connection.cancelStatement(
      new WireError("57014", ErrorCode.Declined, "canceled at the request of the client"),
    );
  }
}

function tooManyConnections(max: number): NeonError {
  return new WireError(
    SqlState.TooManyConnections,
    ErrorCode.Unreachable,
    `the pageserver has ${max} connections already`,
    { hint: "Try again when others have ended." },
  );
}
