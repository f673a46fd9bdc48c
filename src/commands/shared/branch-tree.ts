/**
 * The tree of branches:
 *
 *      main
 *      ┣━ @0/1609610: dev
 *      ┃  ┗━ @0/16A0000: dev-fix
 *      ┗━ @0/1700000: staging
 */
import { type Lsn, formatLsn } from "../../base/lsn.ts";

export interface TreeBranch {
  readonly name: string;
  readonly timelineId: string;
  readonly ancestor: { readonly timelineId: string; readonly lsn: Lsn } | null;
}

/** Children in the order in which they leave their parent. Not recursive: a chain of branches may be long. */
export function formatBranchTree(
  branches: readonly TreeBranch[],
  annotate: (name: string) => string,
): string {
  const byTimeline = new Map<string, TreeBranch[]>();
  const known = new Set(branches.map((branch) => branch.timelineId));
  const roots: TreeBranch[] = [];
  for (const branch of branches) {
    const parent = branch.ancestor?.timelineId;
    // A branch whose parent has no name any more stands at the left, but shows where it came from.
    if (parent === undefined || !known.has(parent)) roots.push(branch);
    else byTimeline.set(parent, [...(byTimeline.get(parent) ?? []), branch]);
  }
  const lines: string[] = [];
  const stack = roots.sort(byName).map((branch) => ({ branch, prefix: "", joint: "", isRoot: true }));
  stack.reverse();
  for (let item = stack.pop(); item; item = stack.pop()) {
    const { branch, prefix, joint, isRoot } = item;
    const origin = branch.ancestor ? `@${formatLsn(branch.ancestor.lsn)}: ` : "";
    const lost = isRoot && branch.ancestor ? ` (of timeline ${branch.ancestor.timelineId})` : "";
    lines.push(` ${prefix}${joint}${origin}${branch.name}${lost}${annotate(branch.name)}`);
    const children = (byTimeline.get(branch.timelineId) ?? []).sort(byPoint);
    const below = isRoot ? "" : prefix + (joint.startsWith("┣") ? "┃  " : "   ");
    const items = children.map((child, index) => ({
      branch: child,
      prefix: below,
      joint: index === children.length - 1 ? "┗━ " : "┣━ ",
      isRoot: false,
    }));
    stack.push(...items.reverse());
  }
  return lines.join("\n");
}

function byName(a: TreeBranch, b: TreeBranch): number {
  if (a.name === b.name) return 0;
  // `main` is where everything began.
  if (a.name === "main" || b.name === "main") return a.name === "main" ? -1 : 1;
  return a.name < b.name ? -1 : 1;
}

function byPoint(a: TreeBranch, b: TreeBranch): number {
  return (a.ancestor?.lsn ?? 0) - (b.ancestor?.lsn ?? 0) || byName(a, b);
}
