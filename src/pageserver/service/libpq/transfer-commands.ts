/**
 * The commands of push and pull. `perform_…` are asked by a user of this pageserver and answered with JSON lines in a
 * CopyOut; `branch_…` by another pageserver, which then speaks with ours over CopyBoth. Who does the work is
 * `../../transfer/`; who may ask for it is decided here.
 */
import type { Channel } from "../../../pgwire/channel.ts";
import type { JsonFields } from "../../json-fields.ts";
import type { Arguments } from "./arguments.ts";
import { type CommandSession, type LibpqCommand, type PreparedCommand, jsonAnswer } from "./command.ts";
import { type Identity, checkEverything, checkTenant } from "../identity.ts";

/** Sends one event to whoever waits; resolves when it can take more. */
export type Emit = (event: object) => Promise<void>;

export interface Transfers {
  /** Ends with the last event, `{"event": "done", …}`. */
  performPush(request: JsonFields, emit: Emit, signal: AbortSignal): Promise<object>;
  performPull(request: JsonFields, emit: Emit, signal: AbortSignal): Promise<object>;
  /** The branches of another pageserver. */
  remoteBranches(request: JsonFields, signal: AbortSignal): Promise<object>;
  serveBranchPush(
    channel: Channel,
    request: JsonFields,
    identity: Identity,
    signal: AbortSignal,
  ): Promise<void>;
  serveBranchPull(
    channel: Channel,
    request: JsonFields,
    identity: Identity,
    signal: AbortSignal,
  ): Promise<void>;
}

export function transferCommands(transfers: Transfers): LibpqCommand[] {
  return [
    {
      name: "perform_push",
      synopsis: "perform_push JSON",
      summary: "Pushes a branch to another pageserver: JSON lines.",
      prepare: (args) =>
        performed(args, (request, emit, signal) => transfers.performPush(request, emit, signal)),
    },
    {
      name: "perform_pull",
      synopsis: "perform_pull JSON",
      summary: "Pulls a branch from another pageserver: JSON lines.",
      prepare: (args) =>
        performed(args, (request, emit, signal) => transfers.performPull(request, emit, signal)),
    },
    {
      name: "remote_branches",
      synopsis: "remote_branches JSON",
      summary: "The branches of another pageserver: one column `data` of JSON.",
      prepare: (args) => {
        const request = args.json();
        return jsonAnswer(async ({ identity, signal }) => {
          checkEverything(identity);
          return transfers.remoteBranches(request, signal);
        });
      },
    },
    {
      name: "branch_push",
      synopsis: "branch_push JSON",
      summary: "Another pageserver sends a branch: CopyBoth.",
      prepare: (args) =>
        served(args, (channel, request, { identity, signal }) =>
          transfers.serveBranchPush(channel, request, identity, signal),
        ),
    },
    {
      name: "branch_pull",
      synopsis: "branch_pull JSON",
      summary: "Another pageserver fetches a branch: CopyBoth.",
      prepare: (args) =>
        served(args, (channel, request, { identity, signal }) =>
          transfers.serveBranchPull(channel, request, identity, signal),
        ),
    },
  ];
}

function performed(
  args: Arguments,
  work: (request: JsonFields, emit: Emit, signal: AbortSignal) => Promise<object>,
): PreparedCommand {
  const request = args.json();
  return {
    run: async (session) => {
      // It makes this pageserver connect to where the request says: nothing for users of single tenants.
      checkEverything(session.identity);
      const out = await session.copyOut();
      const emit: Emit = (event) => out.send(new TextEncoder().encode(`${JSON.stringify(event)}\n`));
      await emit(await work(request, emit, session.signal));
    },
  };
}

function served(
  args: Arguments,
  work: (channel: Channel, request: JsonFields, session: CommandSession) => Promise<void>,
): PreparedCommand {
  const request = args.json();
  return {
    run: async (session) => {
      checkTenant(session.identity, request.tenantId("tenant_id"));
      await work(await session.copyBoth(), request, session);
    },
  };
}
