#!lua flags=allow-oom
-- Extend the leases of a worker's runs, and tell it which of them to stop and which are no longer its own.
-- A run that is being cancelled keeps its old lease: a worker that never confirms loses it. Long runs of a worker that
-- makes room for one that has to be alone are asked for a checkpoint (`save`), and back (`park`) when it is there; the
-- answer that said so may have been lost.

local makes_room = redis.call('GET', key('draining')) == args.worker and redis.call('ZCARD', key('alone')) > 0
local verdicts = {}
for run, epoch in string.gmatch(args.runs, '(%S+) (%S+)') do
  local held = owned(run, epoch)
  local verdict = 'fenced'
  if held and held.owner ~= args.worker then
    count('fenced_writes')
  elseif held and held.cancelling == '1' then
    verdict = 'cancelled'
  elseif held then
    redis.call('ZADD', key('leases'), now + tonumber(args.lease_ms), run)
    verdict = 'go-on'
    if held.park == '1' then
      verdict = 'park'
    elseif makes_room and held.lane == 'batch' and held.alone ~= '1' then
      verdict = 'save'
      if (held.asked_ms or '') == '' then redis.call('HSET', key('run', run), 'asked_ms', now) end
    end
  end
  verdicts[#verdicts + 1] = run
  verdicts[#verdicts + 1] = verdict
end
return verdicts
