/** The HTTP API: all its routes. What each reads and answers is described in docs/http-api.md. */
import { addBranchRoutes } from "./branch-routes.ts";
import { addComputeRoutes } from "./compute-routes.ts";
import { addConfigRoutes } from "./management/config-routes.ts";
import { addLayerRoutes } from "./management/layer-routes.ts";
import { addMomentRoutes } from "./management/moment-routes.ts";
import { addOldRoutes } from "./management/old-routes.ts";
import { addServerRoutes } from "./management/server-routes.ts";
import { addTenantRoutes } from "./management/tenant-routes.ts";
import { addTimelineRoutes } from "./management/timeline-routes.ts";
import { addUpkeepRoutes } from "./management/upkeep-routes.ts";
import { addOpenApiRoutes } from "./openapi/openapi-routes.ts";
import type { ApiRouter, Handler, RouteContext } from "./route-context.ts";
import { Router } from "./router.ts";
import { addStorageRoutes } from "./storage-routes.ts";
import { addUserRoutes } from "./user-routes.ts";

export function buildRoutes(context: RouteContext): ApiRouter {
  const { metrics } = context;
  const router = new Router<Handler>();
  router.add("GET", "/metrics", async () => ({
    kind: "text",
    contentType: metrics.contentType,
    text: await metrics.render(),
  }));
  addOpenApiRoutes(router, context.version);
  addUserRoutes(router, context);
  addConfigRoutes(router, context);
  addTenantRoutes(router, context);
  addBranchRoutes(router, context);
  addTimelineRoutes(router, context);
  addLayerRoutes(router, context);
  addMomentRoutes(router, context);
  addUpkeepRoutes(router, context);
  addStorageRoutes(router, context);
  addComputeRoutes(router, context);
  addServerRoutes(router, context);
  addOldRoutes(router, context);
  return router;
}
