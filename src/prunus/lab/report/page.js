// Draws every figure of the page from the JSON beside it, in the colours of the reader's light or dark theme.
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  function template() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = {
      gridcolor: colour("--grid"),
      linecolor: colour("--line"),
      zerolinecolor: colour("--line"),
      zerolinewidth: 1,
      tickcolor: colour("--line"),
    };
    return {
      layout: {
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { color: colour("--text"), family: colour("--font"), size: 13 },
        annotationdefaults: { font: { color: colour("--text"), size: 13 } },
        hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--text") } },
        xaxis: axis,
        yaxis: axis,
      },
    };
  }

  function draw() {
    for (const plot of document.querySelectorAll(".plot")) {
      const source = document.querySelector(`script[data-for="${plot.id}"]`);
      const spec = JSON.parse(source.textContent);
      spec.layout.template = template();
      Plotly.react(plot, spec.data, spec.layout, { displayModeBar: false, responsive: true });
    }
  }

  draw();
  dark.addEventListener("change", draw);
})();
