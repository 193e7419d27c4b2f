#!lua flags=allow-oom
-- The end of a run: a result's manifest, or an error. Every job of it that is still wanted gets it. Sent twice, it
-- answers as the first time.

local held = record('run', args.run)
if held and held.epoch == args.epoch and held.state == 'ended' then return held.verdict end
held = owned(args.run, args.epoch)
if not held then return 'fenced' end

-- A result's pictures are images of everybody who asked for them, before anybody is told of it.
if args.manifest ~= '' and args.granted ~= '*' then
  local granted = {}
  for caller in string.gmatch(args.granted, '%S+') do granted[caller] = true end
  for _, job in ipairs(members(args.run)) do
    if not granted[redis.call('HGET', key('job', job), 'caller')] then return 'joined' end
  end
end

-- A result is worth keeping even when its jobs were cancelled meanwhile, but not where a worker of another kind
-- computed it than its digest names.
local meant, ran_on = held.environment or '', args.environment
local fits = meant == '' or ran_on == '' or meant == ran_on
if args.manifest ~= '' and held.digest ~= '' and fits then
  redis.call('SET', key('result', held.digest), args.result, 'PX', args.keep_ms)
end

measure('computed', held.operation, tonumber(args.computed_ms))
expire_members(args.run)
if settle(args.run) then return 'cancelled' end

if args.error_name == 'deadline-exceeded' then
  -- The worker stopped for a deadline that not all of its jobs share; the others still want the result.
  queue_run(args.run)
  return 'go-on'
end

-- How long it took is no affair of those who only joined another caller's computation.
local function computed_ms(job)
  local caller = redis.call('HGET', key('job', job), 'caller')
  return (held.caller or caller) == caller and args.computed_ms or ''
end

for _, job in ipairs(members(args.run)) do
  if args.manifest ~= '' then
    local total = redis.call('HGET', key('job', job), 'total')
    -- What was told last may be some steps old, as reports are sent twice a second at most; the result tells the losses.
    local told = { done = total, message = 'done', losses = '' }
    told.manifest, told.computed_ms = args.manifest, computed_ms(job)
    end_job(job, 'succeeded', told)
  else
    end_job(job, 'failed', { error = args.error, computed_ms = computed_ms(job) }, args.passing == '1')
  end
end
end_run(args.run, 'go-on')
return 'go-on'
