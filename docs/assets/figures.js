// Draw the figures of a tutorial, in the colours of the page, and again when these change.
(() => {
  const draw = () => {
    const style = getComputedStyle(document.body)
    const text = style.getPropertyValue("--md-default-fg-color").trim()
    const grid = style.getPropertyValue("--md-default-fg-color--lightest").trim()
    for (const place of document.querySelectorAll("[data-figure]")) {
      const { data, layout } = JSON.parse(place.dataset.figure)
      const narrow = place.clientWidth < 520
      const axes = Object.fromEntries(
        Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key)).map((key) => [
          key, { ...layout[key], gridcolor: grid, zerolinecolor: grid, linecolor: text, automargin: true,
                 ...(narrow && /^x/.test(key) ? { title: { ...layout[key].title, standoff: 4 } } : {}) },
        ]))
      const { template, width, ...own } = layout
      Plotly.react(place, data, {
        ...own, ...axes, autosize: true, paper_bgcolor: "transparent", plot_bgcolor: "transparent",
        font: { ...own.font, color: text, size: narrow ? 10 : 12 },
        ...(narrow ? { legend: { ...own.legend, orientation: "h", y: -0.45, x: 0, xanchor: "left", yanchor: "top" },
                       margin: { ...own.margin, l: 45, r: 10 } } : {}),
      }, { responsive: true, displaylogo: false })
    }
  }
  draw()
  new MutationObserver(draw).observe(document.body, { attributeFilter: ["data-md-color-scheme"] })
})()
