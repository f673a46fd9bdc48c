/**
 * A listener whose one port takes TLS and plain connections, told apart by the first byte: a TLS handshake begins with
 * 0x16, neither HTTP nor HTTP/2 does. It hands over sockets that are ready, decrypted where they were encrypted. What comes
 * from another machine must be encrypted, unless `insecure` says otherwise.
 *
 * Until a connection is handed over it is bounded in time and in what it may cost; where there are too many connections,
 * those give way that have not said anything yet.
 */
import { type AddressInfo, type Server, type Socket, createServer } from "node:net";
import { TLSSocket } from "node:tls";
import { ErrorCode, NeonError, messageOf } from "../../base/errors.ts";
import { listenError } from "../../pgwire/listen-error.ts";
import { isLoopback } from "../../pgwire/loopback.ts";
import type { ServerTls } from "../../pgwire/server-startup.ts";

export interface FrontOptions {
  readonly host: string;
  /** 0 lets the operating system choose. */
  readonly port: number;
  /** Setting that a user changes for another address, for messages. */
  readonly setting: string;
  /** Lets clients of other machines in without encryption. */
  readonly insecure: boolean;
  /** Protocols that are offered inside TLS, `h2` or `http/1.1`. */
  readonly alpn: readonly string[];
  /** What a client of another machine is told that is not encrypted, in its protocol. */
  readonly refusal?: Uint8Array;
  readonly connectionsMax?: number;
  /** From the connection to its being handed over. */
  readonly handshakeTimeoutMs?: number;
  /** Whether a connection does not leave this machine; found out from its addresses unless given. */
  readonly staysHere?: (socket: Socket) => boolean;
}

export interface FrontDependencies {
  /** Read for each connection, so that a new certificate holds at once; undefined where there is none. */
  readonly tls: () => ServerTls | undefined;
  /** Takes a connection whose bytes are those of the protocol, and from then on all its events. */
  readonly onConnection: (socket: Socket) => void;
  /** Told of a connection that was not handed over, and of a failure of the listener itself. */
  readonly onFailure: (error: NeonError, peer: string) => void;
}

/** First byte of a TLS record that holds a handshake. */
const TLS_HANDSHAKE = 0x16;
export const CONNECTIONS_MAX = 4000;
const HANDSHAKE_TIMEOUT_MS = 30_000;
/** After so much silence the operating system asks whether the other side still lives. */
const KEEPALIVE_MS = 60_000;
/** How long the last words to a client may take. */
const REFUSAL_TIMEOUT_MS = 2000;

export class Front implements AsyncDisposable {
  private readonly options: FrontOptions;
  private readonly dependencies: FrontDependencies;
  private readonly server: Server;
  private readonly connections = new Set<Socket>();
  /** Those that were not handed over yet, oldest first. */
  private readonly waiting = new Set<Socket>();

  constructor(options: FrontOptions, dependencies: FrontDependencies) {
    this.options = options;
    this.dependencies = dependencies;
    this.server = createServer({
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: KEEPALIVE_MS,
      // A client may say that it has sent everything, and wait for the answer.
      allowHalfOpen: true,
    });
    this.server.on("connection", (socket) => this.accept(socket));
  }

  /** Throws `resource` when the port is taken or not ours to take. */
  async listen(): Promise<void> {
    const { host, port, setting } = this.options;
    await new Promise<void>((resolve, reject) => {
      this.server.once("error", (error) => reject(listenError({ host, port }, setting, error)));
      this.server.listen({ host, port, exclusive: true }, () => resolve());
    });
    this.server.on("error", (error) => {
      this.dependencies.onFailure(new NeonError(ErrorCode.Resource, messageOf(error)), "listener");
    });
  }

  get listening(): boolean {
    return this.server.listening;
  }

  /** The port that it listens on. */
  get port(): number {
    const address: AddressInfo | string | null = this.server.address();
    return typeof address === "object" && address !== null ? address.port : this.options.port;
  }

  /** Clients that are connected now, handed over or not. */
  get connectionCount(): number {
    return this.connections.size;
  }

  /** Takes no new connections and ends those that were not handed over; resolves when the others have ended, too. */
  async close(): Promise<void> {
    if (!this.server.listening) return;
    const closed = new Promise<void>((resolve) => this.server.close(() => resolve()));
    for (const socket of this.waiting) socket.destroy();
    await closed;
  }

  /** Cuts all connections. */
  destroyConnections(): void {
    for (const socket of this.connections) socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = this.close();
    this.destroyConnections();
    await closed;
  }

  private accept(socket: Socket): void {
    socket.on("error", () => undefined);
    this.makeRoom();
    if (this.connections.size >= (this.options.connectionsMax ?? CONNECTIONS_MAX)) {
      socket.destroy();
      return;
    }
    this.connections.add(socket);
    this.waiting.add(socket);
    const timer = setTimeout(() => socket.destroy(), this.options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS);
    const settled = (): void => {
      clearTimeout(timer);
      this.waiting.delete(socket);
    };
    socket.once("close", () => {
      settled();
      this.connections.delete(socket);
    });
    this.awaitFirstByte(socket, settled);
  }

  /** Before there are too many connections, the oldest goes that has said nothing that we understand. */
  private makeRoom(): void {
    if (this.connections.size < (this.options.connectionsMax ?? CONNECTIONS_MAX)) return;
    const [oldest] = this.waiting;
    if (!oldest) return;
    oldest.destroy();
    this.waiting.delete(oldest);
    this.connections.delete(oldest);
  }

  private awaitFirstByte(socket: Socket, settled: () => void): void {
    const onEnd = (): void => {
      socket.destroy();
    };
    socket.once("end", onEnd);
    socket.once("readable", () => {
      const first: unknown = socket.read(1);
      if (!(first instanceof Uint8Array) || first[0] === undefined) return;
      socket.off("end", onEnd);
      socket.unshift(first);
      if (first[0] === TLS_HANDSHAKE) this.decrypt(socket, settled);
      else this.takePlain(socket, settled);
    });
  }

  private takePlain(socket: Socket, settled: () => void): void {
    const { insecure, refusal } = this.options;
    if (insecure || (this.options.staysHere ?? staysHere)(socket)) {
      settled();
      this.dependencies.onConnection(socket);
      return;
    }
    this.fail(socket, "a client of another machine that does not encrypt");
    if (refusal === undefined) {
      socket.destroy();
      return;
    }
    const timer = setTimeout(() => socket.destroy(), REFUSAL_TIMEOUT_MS);
    socket.once("close", () => clearTimeout(timer));
    // What it has sent is read: an unread rest would reset the connection, and the answer might get lost.
    socket.resume();
    socket.end(refusal);
  }

  private decrypt(socket: Socket, settled: () => void): void {
    const tls = this.dependencies.tls();
    if (!tls) {
      this.fail(socket, "a TLS handshake, but there is no certificate");
      socket.destroy();
      return;
    }
    const secure = new TLSSocket(socket, {
      isServer: true,
      secureContext: tls.context,
      ALPNProtocols: [...this.options.alpn],
    });
    secure.on("error", (error) => {
      if (this.waiting.has(socket)) this.fail(socket, `TLS handshake: ${messageOf(error)}`);
      socket.destroy();
    });
    const onEnd = (): void => {
      socket.destroy();
    };
    secure.once("end", onEnd);
    secure.once("close", onEnd);
    secure.once("secure", () => {
      if (!this.waiting.has(socket)) return;
      secure.off("end", onEnd);
      settled();
      this.dependencies.onConnection(secure);
    });
  }

  private fail(socket: Socket, what: string): void {
    const peer = `${socket.remoteAddress ?? "client"}:${socket.remotePort ?? 0}`;
    this.dependencies.onFailure(new NeonError(ErrorCode.Unreachable, what), peer);
  }
}

/** Whether a connection does not leave this machine: a loopback address, or an address to itself. */
function staysHere({ remoteAddress, localAddress }: Socket): boolean {
  return isLoopback(remoteAddress) || (remoteAddress !== undefined && remoteAddress === localAddress);
}
