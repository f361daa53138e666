-- What pandoc must be told on the way from an executed notebook to a paper, in typst (for the PDF) or HTML.
-- Equations are labelled as LaTeX does; @fig-x, @tbl-x and @eq-x are cross-references, not citations.

local typst = FORMAT:match 'typst'
local numbers = {}
local counts = {Figure = 0, Table = 0, Equation = 0}

local function numbered(kind, id)
  counts[kind] = counts[kind] + 1
  if id ~= '' then numbers[id] = kind .. ' ' .. counts[kind] end
  return counts[kind]
end

local function captioned(kind)
  return function(block)
    local head = pandoc.Strong {pandoc.Str(kind .. ' ' .. numbered(kind, block.identifier) .. ': ')}
    local first = block.caption.long[1]
    if first then first.content:insert(1, head) else block.caption.long = {pandoc.Plain {head}} end
    return block
  end
end

local function equation(math)
  local text, id = math.text:match '^(.*)\\label{([%w-]+)}%s*$'
  if not id then return nil end
  if typst then
    local written = pandoc.write(pandoc.Pandoc(pandoc.Plain {pandoc.Math('DisplayMath', text)}), 'typst')
    return pandoc.RawInline('typst', (written:gsub('%s+$', '')) .. ' <' .. id .. '>')
  end
  local number = numbered('Equation', id)
  return pandoc.Span(
    {pandoc.Math('DisplayMath', text), pandoc.Span({pandoc.Str('(' .. number .. ')')}, {class = 'number'})},
    {id = id, class = 'equation'}
  )
end

local function reference(cite)
  local id = cite.citations[1].id
  if typst then return pandoc.RawInline('typst', '#ref(<' .. id .. '>)') end
  return pandoc.Link({pandoc.Str(numbers[id])}, '#' .. id)
end

-- references and appendix have no number, and what is still floating comes before them
local function at_the_end(header)
  local name = pandoc.utils.stringify(header)
  if name == 'References' or name:match '^Appendix' then
    header.classes:insert 'unnumbered'
    return typst and {pandoc.RawBlock('typst', '#place.flush()'), header} or header
  end
end

-- long tables may break, the others stay on one page; wide tables are set smaller
local function fitted(block)
  local rules = {}
  if #block.bodies[1].body > 30 then table.insert(rules, '#show figure: set block(breakable: true)') end
  if #block.colspecs > 11 then table.insert(rules, '#show table: set text(size: 7pt)') end
  if typst and #rules > 0 then
    local head = '#[\n' .. table.concat(rules, '\n')
    return {pandoc.RawBlock('typst', head), block, pandoc.RawBlock('typst', ']')}
  end
end

-- a plain DataFrame has a table in HTML only
local function html_table(raw)
  if raw.format:match 'html' then return pandoc.read(raw.text, 'html').blocks end
end

function Pandoc(doc)
  doc = doc:walk {RawBlock = html_table}
  doc = doc:walk {Math = equation}
  if not typst then doc = doc:walk {Figure = captioned 'Figure', Table = captioned 'Table'} end
  doc = doc:walk {Header = at_the_end, Table = fitted}
  doc = doc:walk {Cite = reference}
  doc.meta = pandoc.Pandoc({}, doc.meta):walk({Cite = reference}).meta
  return doc
end
