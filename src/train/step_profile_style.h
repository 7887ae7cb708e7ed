// What the page of a profile adds to the style sheet of report.html, and its script.
#pragma once

namespace vitrine {

inline constexpr const char* kStepProfileStyle = R"css(
:root { --products: #4477aa; --attention: #ee6677; --norms: #228833; --activations: #ccbb44;
  --images: #66ccee; --update: #aa3377; --other: #a0a0a0; --forward: #d8d5cb; --backward: #b9b5a8; }
@media (prefers-color-scheme: dark) { :root { --forward: #3c4247; --backward: #555c62; } }
body { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); }
.tile.wide { grid-column: span 2; }
.tile.wide b { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace;
  font-size: 1.3rem; margin: .45rem 0 .35rem; }
.families { display: flex; flex-wrap: wrap; gap: .1rem 1.3rem; margin: 0 0 .7rem;
  font-size: .88rem; color: var(--soft); }
.families i, td > i.swatch { display: inline-block; width: .75em; height: .75em; margin-right: .45em;
  border-radius: 2px; }
td.bar { width: 17%; min-width: 5rem; }
td.bar.roof span { background: var(--rule); }
td.bar.roof i { background: var(--soft); }
tr.sum td { border-bottom: 0; border-top: 1px solid var(--soft); }
.sums td { white-space: normal; }
.sums td:first-child, .sums td:nth-child(2) { white-space: nowrap; }
.sums td:last-child { text-align: left; color: var(--soft); width: 70%; }
.sums .part td:first-child { padding-left: 1.4rem; }

.products { fill: var(--products); background: var(--products); }
.attention { fill: var(--attention); background: var(--attention); }
.norms { fill: var(--norms); background: var(--norms); }
.activations { fill: var(--activations); background: var(--activations); }
.images { fill: var(--images); background: var(--images); }
.update { fill: var(--update); background: var(--update); }
.other { fill: var(--other); background: var(--other); }
.forward { fill: var(--forward); }
.backward { fill: var(--backward); }
.layer { fill-opacity: .65; }
.timeline { margin-bottom: .4rem; min-width: 44rem; }
.timeline .grid, .timeline rect { vector-effect: non-scaling-stroke; }
.timeline .edge { stroke: var(--paper); stroke-width: .6; }
.timeline rect:hover, .roofline circle:hover { stroke: var(--ink); stroke-width: 1.2; }
.timeline .grid, .roofline .grid { stroke: var(--rule); }
.timeline text.inside { pointer-events: none; font-size: 11px; fill: #16191c; }
.timeline text.inside.forward, .timeline text.inside.backward { fill: var(--ink); fill-opacity: 1; }
.timeline text.inside.products, .timeline text.inside.norms, .timeline text.inside.update {
  fill: #ffffff; }
.zoom { text-align: right; margin: 0 0 .3rem; font-size: .85rem; color: var(--soft); }
.zoom button { font: inherit; color: var(--ink); background: var(--card); cursor: pointer;
  border: 1px solid var(--rule); border-radius: 4px; margin-left: .3rem; padding: 0 .6rem; }

.roofline circle { fill-opacity: .8; stroke: var(--paper); }
.roofline .roof { stroke: var(--ink); stroke-width: 1.6; }
.roofline .sheet { stroke: var(--soft); stroke-dasharray: 6 5; }
.roofline .reach { stroke: var(--soft); stroke-width: .8; }
.roofline .leader { stroke: var(--soft); stroke-width: .6; stroke-dasharray: 2 2; }
.roofline text.halo { paint-order: stroke; stroke: var(--paper); stroke-width: 3.5;
  stroke-linejoin: round; }
.roofline text.name { fill: var(--ink); }
@media (max-width: 46rem) { .tile.wide { grid-column: auto; } }
)css";

// Widens the timeline inside its scrolling frame; its texts keep their shape.
inline constexpr const char* kZoomScript = R"js(
document.querySelectorAll('svg.timeline').forEach(svg => {
  const zoom = document.createElement('p');
  zoom.className = 'zoom';
  zoom.textContent = 'Zoom';
  for (const factor of [1, 2, 4, 8, 16, 32]) {
    const button = document.createElement('button');
    button.textContent = factor + '×';
    button.onclick = () => {
      const frame = svg.parentNode, old = svg.clientWidth;
      const middle = (frame.scrollLeft + frame.clientWidth / 2) / old;
      svg.style.height = svg.clientHeight + 'px';
      svg.style.width = 100 * factor + '%';
      svg.setAttribute('preserveAspectRatio', 'none');
      svg.querySelectorAll('text').forEach(text => {
        text.style.transformOrigin = text.getAttribute('x') + 'px 0';
        text.style.transform = 'scaleX(' + 1 / factor + ')';
      });
      frame.scrollLeft = middle * svg.clientWidth - frame.clientWidth / 2;
    };
    zoom.append(button);
  }
  svg.parentNode.before(zoom);
});
)js";

}  // namespace vitrine
