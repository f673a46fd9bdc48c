/** The table of gRPC methods: the page service, health, reflection. */
import { PAGE_SERVICE } from "../../../base/page-api/page-model.ts";
import { BaseBackups } from "./base-backup-method.ts";
import { getPages } from "./get-pages.ts";
import type { GrpcMethod } from "./grpc-server.ts";
import { HEALTH_SERVICE, type Health } from "./health-method.ts";
import type { PageContext } from "./page-context.ts";
import { REFLECTION_PATHS, Reflection } from "./reflection-method.ts";
import { UNARY_METHODS, serveUnary } from "./unary-methods.ts";

/** Until the only message of a call is here. */
const MESSAGE_WAIT_MS = 60_000;
/** How long a stream of pages may ask for nothing. */
const STREAM_IDLE_MS = 600_000;

export function grpcMethods(context: PageContext, health: Health): ReadonlyMap<string, GrpcMethod> {
  const methods = new Map<string, GrpcMethod>();
  const add = (path: string, handle: GrpcMethod["handle"], idleMs = MESSAGE_WAIT_MS): void => {
    methods.set(path, { handle, idleMs });
  };
  add(`/${PAGE_SERVICE}/GetPages`, (call, peer) => getPages(context, call, peer), STREAM_IDLE_MS);
  for (const method of UNARY_METHODS) {
    add(`/${PAGE_SERVICE}/${method}`, (call, peer) => serveUnary(method, context, call, peer));
  }
  const backups = new BaseBackups(context);
  add(`/${PAGE_SERVICE}/GetBaseBackup`, (call, peer) => backups.serve(call, peer));
  add(`/${HEALTH_SERVICE}/Check`, (call) => health.check(call));
  methods.set(`/${HEALTH_SERVICE}/Watch`, {
    handle: (call) => health.watch(call),
    idleMs: MESSAGE_WAIT_MS,
    isEndless: true,
  });
  const reflection = new Reflection();
  for (const path of REFLECTION_PATHS) add(path, (call) => reflection.serve(call));
  return methods;
}
