/**
 * Free TCP ports without races between our own processes: whoever wants a port first takes a lock on its number, then
 * tests that it can be bound, and keeps the lock until its server listens. Ports of servers that are stopped are passed
 * over: port-notes.ts.
 */
import { type AddressInfo, connect, createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { ErrorCode, NeonError, systemCode } from "../base/errors.ts";
import { belongsToOther, lockPort, noteOwner } from "./port-notes.ts";

export interface PortRequest {
  /** Where the search for a free port begins. */
  readonly first: number;
  /** Exactly this one, or an error. */
  readonly wanted?: number | undefined;
  /**
   * How long a wanted port is waited for that is taken although nobody listens on it. Any outgoing connection may get
   * its number from the system for a while: it is in the range that these come from.
   */
  readonly patienceMs?: number;
  /** Ports that belong to something that is not running just now. */
  readonly avoid?: ReadonlySet<number>;
  /** Path of the file whose existence keeps the port reserved while nobody listens. */
  readonly owner?: string | undefined;
  /** What the port is for, where an owner has several. */
  readonly purpose?: string | undefined;
}

export interface ReservedPort {
  readonly port: number;
  /** To be called once a server listens on the port, or when none will. */
  readonly release: () => void;
}

/** How many ports are tried from `first` on. */
const ATTEMPTS_MAX = 1000;
const PORT_MAX = 65_535;
const PORT_POLL_MS = 50;

/** Throws `resource` when the wanted port, or every port tried, is in use. */
export async function reservePort(request: PortRequest): Promise<ReservedPort> {
  const { wanted } = request;
  if (wanted !== undefined) {
    checkPort(wanted);
    const reserved = await waitForPort(wanted, request.patienceMs ?? 0);
    if (!reserved) throw await portInUse(wanted);
    if (request.owner !== undefined) noteOwner(wanted, request.owner, request.purpose);
    return reserved;
  }
  const last = Math.min(request.first + ATTEMPTS_MAX, PORT_MAX + 1);
  for (let port = request.first; port < last; port++) {
    if (request.avoid?.has(port) || belongsToOther(port, request.owner)) continue;
    const reserved = await tryPort(port);
    if (!reserved) continue;
    if (request.owner !== undefined) noteOwner(port, request.owner, request.purpose);
    return reserved;
  }
  throw new NeonError(ErrorCode.Resource, `no free port between ${request.first} and ${last - 1}`, {
    hint: "Stop computes that are not needed (`neon pg list`, `neon pg stop NAME`), or name a port with --port.",
  });
}

/** Whether a server could listen on this port of 127.0.0.1 now. Throws `resource` where that is not allowed. */
export async function portIsFree(port: number): Promise<boolean> {
  // Both addresses: where a server listens on all of them, some systems still let us have 127.0.0.1.
  return (await canBind(port, "127.0.0.1")) && (await canBind(port, "0.0.0.0"));
}

/** The error for a port that is taken; names one that is not. */
export async function portInUse(port: number): Promise<NeonError> {
  let free: number | undefined;
  for (let next = port + 1; next <= Math.min(port + 50, PORT_MAX) && free === undefined; next++) {
    if (!belongsToOther(next, undefined) && (await portIsFree(next))) free = next;
  }
  const example = free === undefined ? "" : `, for example ${free}`;
  return new NeonError(ErrorCode.Resource, `port ${port} of 127.0.0.1 is in use`, {
    hint: `End what listens there, or choose another port${example}.`,
    data: { port, free: free ?? null },
  });
}

/** Whether something failed only because a port is taken: of use where any other would do. */
export function isPortInUse(error: unknown): boolean {
  return (
    error instanceof NeonError &&
    error.code === ErrorCode.Resource &&
    /\bport \d+.* in use/.test(error.message)
  );
}

function checkPort(port: number): void {
  if (Number.isInteger(port) && port >= 1 && port <= PORT_MAX) return;
  throw new NeonError(ErrorCode.Usage, `${port} is no port`, {
    hint: `A port is a number between 1 and ${PORT_MAX}; those above 1023 need no privileges.`,
  });
}

async function tryPort(port: number): Promise<ReservedPort | undefined> {
  const lock = lockPort(port);
  if (!lock) return undefined;
  let free = false;
  try {
    free = await portIsFree(port);
  } finally {
    if (!free) lock.release();
  }
  return free ? { port, release: () => lock.release() } : undefined;
}

async function waitForPort(port: number, patienceMs: number): Promise<ReservedPort | undefined> {
  const deadline = Date.now() + patienceMs;
  for (;;) {
    const reserved = await tryPort(port);
    if (reserved || Date.now() >= deadline || (await somebodyListens(port))) return reserved;
    await sleep(PORT_POLL_MS);
  }
}

/** Whether a server answers on the port. */
function somebodyListens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: "127.0.0.1" });
    const answer = (listens: boolean): void => {
      socket.destroy();
      resolve(listens);
    };
    // A connection to a port that nobody listens on can meet itself, if it is given just that port to come from.
    socket.once("connect", () => {
      answer(socket.localPort !== port);
    });
    socket.once("error", () => {
      answer(false);
    });
  });
}

function canBind(port: number, host: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", (error) => {
      const code = systemCode(error);
      if (code === "EADDRINUSE") resolve(false);
      else if (code === "EACCES") {
        reject(
          new NeonError(ErrorCode.Resource, `port ${port} needs privileges that you do not have`, {
            hint: "Choose a port above 1023.",
            cause: error,
          }),
        );
      } else reject(error);
    });
    server.listen({ port, host, exclusive: true }, () => {
      const address: AddressInfo | string | null = server.address();
      server.close(() => resolve(address !== null));
    });
  });
}
