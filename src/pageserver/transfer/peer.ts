/**
 * One side's end of a transfer: typed messages over a channel. Errors of either side reach the other with their code,
 * so that both say the same thing.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { AssertionError, ErrorCode, NeonError, corrupt } from "../../base/errors.ts";
import { JsonFields } from "../json-fields.ts";
import type { Channel } from "../../pgwire/channel.ts";
import { FrameType, type Message, receiveMessage, sendMessage } from "./frames.ts";
import { type PeerIdentity, checkIdentities, parseIdentity, renderIdentity } from "./identity.ts";

const TEXT_LENGTH_MAX = 4000;
/** How long an interrupted transfer may take to put its things in order, in milliseconds. */
const GRACE_MS = 5000;
const CODES: ReadonlySet<string> = new Set(Object.values(ErrorCode));

type JsonMessage = Extract<Message, { readonly value: unknown }>;

export class Peer {
  readonly channel: Channel;
  /** The other side has told what went wrong, or has left: there is no use in telling it anything. */
  private isLost = false;

  constructor(channel: Channel) {
    this.channel = channel;
  }

  /** Both sides say who they are. Throws unless they may exchange timelines. */
  async greet(ours: PeerIdentity): Promise<PeerIdentity> {
    await this.send(FrameType.Hello, renderIdentity(ours));
    const theirs = parseIdentity(await this.expect(FrameType.Hello));
    checkIdentities(ours, theirs);
    return theirs;
  }

  send(type: JsonMessage["type"], value: unknown): Promise<void> {
    return sendMessage(this.channel, type, value);
  }

  /** The next message. Throws what the other side has thrown. */
  async next(): Promise<Message> {
    let message: Message;
    try {
      message = await receiveMessage(this.channel);
    } catch (error) {
      if (!(error instanceof NeonError && error.code === ErrorCode.Corrupt)) this.isLost = true;
      throw error;
    }
    if (message.type !== FrameType.Error) return message;
    this.isLost = true;
    throw parseError(message.value);
  }

  async expect(type: JsonMessage["type"]): Promise<unknown> {
    const message = await this.next();
    if (message.type !== type || !("value" in message)) {
      throw corrupt(`message ${message.type} comes where ${type} is expected`, { type: message.type });
    }
    return message.value;
  }

  /** Tells the other side why this one stops, if it can still be told. */
  async tell(error: unknown): Promise<void> {
    if (this.isLost) return;
    this.isLost = true;
    await this.send(FrameType.Error, renderError(error)).catch(() => undefined);
  }
}

/** Runs one side of a transfer: whatever happens, the other side learns of it and the channel is ended. */
export async function converse<R>(
  channel: Channel,
  signal: AbortSignal,
  talk: (peer: Peer) => Promise<R>,
): Promise<R> {
  const peer = new Peer(channel);
  const interrupted = Promise.withResolvers<never>();
  interrupted.promise.catch(() => undefined);
  const onAbort = (): void => {
    interrupted.reject(interruption(signal));
  };
  signal.addEventListener("abort", onAbort, { once: true });
  const talking = (async () => {
    if (signal.aborted) throw interruption(signal);
    return talk(peer);
  })();
  try {
    return await Promise.race([talking, interrupted.promise]);
  } catch (error) {
    await withinGrace(peer.tell(error));
    await withinGrace(channel.end());
    await withinGrace(talking);
    throw error;
  } finally {
    signal.removeEventListener("abort", onAbort);
    await withinGrace(channel.end());
  }
}

/** A channel that takes nothing more must not keep us. */
async function withinGrace(work: Promise<unknown>): Promise<void> {
  const limit = new AbortController();
  await Promise.race([
    work.catch(() => undefined),
    sleep(GRACE_MS, undefined, { ref: false, signal: limit.signal }).catch(() => undefined),
  ]);
  limit.abort();
}

export function interruption(signal: AbortSignal): unknown {
  const reason: unknown = signal.reason;
  if (reason instanceof NeonError) return reason;
  return new NeonError(ErrorCode.Declined, "the transfer was interrupted", {
    hint: "Nothing was changed. Run the same command again: it goes on where it stopped.",
    cause: reason,
  });
}

function renderError(error: unknown): object {
  if (!(error instanceof NeonError)) {
    const isBug = error instanceof AssertionError;
    return { code: ErrorCode.Failed, message: isBug ? "an internal error" : String(error), hint: null };
  }
  return { code: error.code, message: error.message, hint: error.hint ?? null, data: error.data };
}

/** What the other side says is shown, never trusted: known codes only, bounded texts, no control characters. */
function parseError(value: unknown): NeonError {
  const fields = new JsonFields(value, "error", (message) => corrupt(message));
  const limits = { minLength: 0, maxLength: TEXT_LENGTH_MAX };
  const code = fields.text("code");
  const known = CODES.has(code) ? (code as ErrorCode) : ErrorCode.Failed;
  const data = fields.optionalObject("data");
  const relation = data?.optionalText("relation");
  const lsn = data?.optionalText("lsn");
  return new NeonError(known, printable(fields.text("message", limits)), {
    hint: fields.has("hint") ? printable(fields.text("hint", limits)) : undefined,
    data: {
      remote: true,
      ...(relation === undefined ? {} : { relation: printable(relation) }),
      ...(lsn === undefined ? {} : { lsn: printable(lsn) }),
    },
  });
}

function printable(text: string): string {
  return text.replaceAll(/\p{Cc}/gu, " ");
}
