// The style sheet of report.html: paper and ink by day and by night, fonts of the reader's machine.
#pragma once

namespace vitrine {

inline constexpr const char* kReportStyle = R"css(
:root {
  color-scheme: light dark;
  --paper: #fbfaf6; --card: #ffffff; --ink: #23272b; --soft: #676c70; --rule: #e2dfd6;
  --blue: #265c8a; --red: #b8492d; --strong-ink: #ffffff;
  --blend: multiply; --invert: none;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181b; --card: #1c2024; --ink: #e3e1da; --soft: #9a9d9e; --rule: #31363a;
    --blue: #78b0dd; --red: #ea8a68; --strong-ink: #14171a;
    --blend: screen; --invert: invert(1) hue-rotate(180deg);
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 3rem 1.5rem 4rem; max-width: 72rem; background: var(--paper);
  color: var(--ink); line-height: 1.5; font-variant-numeric: tabular-nums;
  font-family: system-ui, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", sans-serif;
}
h1, h2, .tile b {
  font-family: Charter, "Bitstream Charter", "Iowan Old Style", Georgia, "Liberation Serif", serif;
  font-weight: 500; line-height: 1.2;
}
h1 { font-size: 2.3rem; margin: 0 0 1.6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.45rem; margin: 3.2rem 0 .3rem; }
h2 + .pair, h2 + table { margin-top: 1rem; }
.note { color: var(--soft); margin: 0 0 1.1rem; max-width: 46rem; font-size: .95rem; }
em { font-style: normal; }

.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: 1px;
  background: var(--card); border: 1px solid var(--rule); border-radius: 6px; overflow: hidden; }
.tile { box-shadow: 0 0 0 1px var(--rule); padding: 1rem 1.2rem 1.1rem; }
.tile span { display: block; font-size: .82rem; color: var(--soft); }
.tile b { display: block; font-size: 1.85rem; margin: .1rem 0 .15rem; white-space: nowrap; }

.pair { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.8rem 2.6rem;
  align-items: start; }
.pair.stacked { grid-template-columns: minmax(0, 1fr); }
figure { margin: 0; }
figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1.2rem;
  font-size: .9rem; margin-bottom: .4rem; }
figcaption b { font-weight: 600; }
.key { display: flex; flex-wrap: wrap; gap: 0 1.1rem; color: var(--soft); }
.key em { color: var(--ink); }
.key i { display: inline-block; width: 1.3em; vertical-align: .25em; margin-right: .45em;
  border-top: 2px solid var(--blue); }
.key i.test { border-color: var(--red); }
.key i.top5 { border-color: var(--red); border-top-style: dotted; }
.key i.steps { opacity: .5; border-top-width: 1px; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 12px; fill: var(--soft); }
.chart path { fill: none; stroke: var(--blue); stroke-width: 1.8; stroke-linejoin: round;
  stroke-linecap: round; }
.chart path.steps { stroke-width: 1; opacity: .5; }
.chart path.test, .chart path.top5 { stroke: var(--red); }
.chart path.top5 { stroke-dasharray: .1 4; }
.chart circle { fill: var(--blue); stroke: var(--paper); stroke-width: 1; }
.chart circle.test, .chart circle.top5 { fill: var(--red); }
.chart circle.hidden { fill-opacity: 0; stroke-opacity: 0; }
.chart .grid { stroke: var(--rule); }
.chart .axis { stroke: var(--soft); stroke-opacity: .7; }

.matrix text { text-anchor: middle; font-size: 12px; }
.matrix text.row { text-anchor: end; fill: var(--ink); }
.matrix text.column { fill: var(--ink); }
.matrix text.tilted { text-anchor: start; fill: var(--ink); }
.matrix text.side { fill: var(--soft); }
.matrix g text { font-size: 11px; fill: var(--ink); }
.matrix g.strong text { fill: var(--strong-ink); }
.matrix .right rect { fill: var(--blue); }
.matrix .wrong rect { fill: var(--red); }
.frame { max-width: 36rem; border: 1px solid var(--rule); }
img.matrix { display: block; width: 100%; image-rendering: pixelated;
  mix-blend-mode: var(--blend); filter: var(--invert); }
.sides { margin: 0 0 .5rem; font-size: .85rem; color: var(--soft); }

.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th { font-weight: 400; color: var(--soft); text-align: right; font-size: .82rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--rule); white-space: nowrap; }
td { text-align: right; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
th.left, td.left { text-align: left; }
td.bar { width: 30%; min-width: 6rem; }
td.bar span { display: block; border-radius: 2px; }
.classes td.bar span { background: var(--rule); }
td small { color: var(--soft); font-size: .78rem; margin-left: .2em; }
td.bar i { display: block; height: .7rem; border-radius: 2px; background: var(--blue);
  min-width: 1px; opacity: .85; }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace;
  font-size: .84rem; }
pre { margin: 1rem 0 0; padding: 1rem 1.2rem; background: var(--card); border: 1px solid var(--rule);
  border-radius: 6px; overflow-x: auto; max-height: 34rem; line-height: 1.45; }
.facts td { white-space: normal; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
.facts td:first-child { color: var(--soft); white-space: nowrap; width: 1%; }
details { margin-top: 1.6rem; }
summary { cursor: pointer; color: var(--soft); font-size: .9rem; margin-bottom: .5rem; }

.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.2rem, 1fr));
  gap: 1.2rem .9rem; }
.examples figcaption { display: block; margin: .35rem 0 0; font-size: .85rem; line-height: 1.35;
  overflow-wrap: anywhere; }
.examples figcaption em { color: var(--red); }
.examples figcaption small { display: block; color: var(--soft); font-size: .78rem; }
.examples img { display: block; width: 100%; border-radius: 4px; border: 1px solid var(--rule); }
.examples img.small { image-rendering: pixelated; }

.looks { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr));
  gap: 1.4rem 1.6rem; }
.looks figcaption, .positions figcaption { display: block; margin: .4rem 0 0; }
.wide figcaption { margin: .4rem 0 0; }
.looks img, .positions img, .wide img { display: block; width: 100%; border-radius: 4px; }
.positions img { border: 1px solid var(--rule); }
.positions figcaption { color: var(--soft); }

@media (max-width: 60rem) {
  .chart { max-width: 38rem; }
  .pair { grid-template-columns: minmax(0, 1fr); }
}
@media (max-width: 46rem) {
  body { padding: 1.6rem 1rem 3rem; }
  h1 { font-size: 1.7rem; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .tile { padding: .8rem .9rem; }
  .tile b { font-size: 1.4rem; }
  .chart text { font-size: 15px; }
  th, td { padding: .3rem .5rem; }
}
@media print {
  body { max-width: none; }
  figure, .tile, tr { break-inside: avoid; }
}
)css";

}  // namespace vitrine
